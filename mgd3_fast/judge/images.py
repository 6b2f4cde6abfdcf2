"""Real images in memory, to be compared with what a generator makes.

Shape letters: N images, R pixels a side.
"""

from __future__ import annotations

import torch

from mgd3_fast.datasets import Dataset, image_batches
from mgd3_fast.evaluate.images import ImageSet

_ROWS = 64


def read_images(dataset: Dataset, resolution: int, on_bad_image: str) -> ImageSet:
    """Read all images of a dataset.

    Args:
        dataset: A small one.
        resolution: R.
        on_bad_image: "error" or "skip".

    Returns:
        uint8 `[N, 3, R, R]`, labelled by the places of their classes.

    Raises:
        UserError: A bad image, or no good one in a class.
    """
    pixels, labels = [], []
    for place in range(len(dataset.classes)):
        for batch in image_batches(dataset, place, resolution, _ROWS, on_bad_image):
            pixels.append(batch.images)
            labels.append(torch.full((len(batch.images),), place))
    return ImageSet(torch.cat(pixels), torch.cat(labels))
