"""Distilled images as a Ray dataset, for whoever trains on a cluster next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mgd3_fast.errors import missing

try:
    import pyarrow
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.extensions import ArrowTensorArray
except ImportError:
    raise ImportError(str(missing("mgd3_fast.distributed needs Ray", "ray"))) from None

from mgd3_fast.datasets import decode_image
from mgd3_fast.writers.growing import images_so_far
from mgd3_fast.writers.labelled import LabelledImage

_IMAGES_A_BLOCK = 256  # 48 MiB at 256 px; Ray splits blocks of more than 128 MiB


def read_distilled(out: Path | str, **reading: Any) -> ray.data.Dataset:
    """Open the images of a run, finished or under way, as a Ray dataset.

    Of a run under way these are the images that are finished at the moment of the call; call again to see
    more. Ray's tasks read the images, and compare them with their sha256, when the dataset is used. They come
    class after class: shuffle them to train.

    Args:
        out: A folder that `distill` wrote or is writing into, at the same path on every node.
        reading: What `ray.data.read_datasource` takes, such as `override_num_blocks`.

    Returns:
        Rows of `image` (uint8 `[H, W, 3]`), `label` (int64, in the full class list) and `class` (its name,
        for ImageNet the wnid).

    Raises:
        UserError: There is no run in `out`, or none of its images is finished yet.
    """
    return ray.data.read_datasource(DistilledImages(images_so_far(Path(out).absolute(), "out")), **reading)


class DistilledImages(ray.data.Datasource):  # type: ignore[misc]
    """What Ray Data reads images from, all of one size, in tasks of consecutive ones."""

    def __init__(self, images: Sequence[LabelledImage]) -> None:
        super().__init__()
        self._images = images
        width, height = images[0].load().size
        self._image_bytes = 3 * width * height

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all pixels."""
        return len(self._images) * self._image_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ray.data.ReadTask]:
        """Divide the images among at most `parallelism` tasks, in equal parts up to one image."""
        count = min(parallelism, len(self._images))
        bounds = [len(self._images) * task // count for task in range(count + 1)]
        parts = [self._images[start:stop] for start, stop in pairwise(bounds)]
        return [
            ray.data.ReadTask(
                partial(_blocks, part),
                BlockMetadata(len(part), len(part) * self._image_bytes, exec_stats=None, input_files=None),
                per_task_row_limit=per_task_row_limit,
            )
            for part in parts
        ]


def _blocks(images: Sequence[LabelledImage]) -> Iterator[pyarrow.Table]:
    for start in range(0, len(images), _IMAGES_A_BLOCK):
        block = images[start : start + _IMAGES_A_BLOCK]
        pixels = np.stack([np.asarray(decode_image(image.content())) for image in block])
        yield pyarrow.table(
            {
                "image": ArrowTensorArray.from_numpy(pixels),
                "label": pyarrow.array([image.label for image in block], pyarrow.int64()),
                "class": [image.class_name for image in block],
            }
        )
