"""The images that an autoencoder is trained on.

Shape letters: B images, R resolution in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets import BadImageError, Dataset, bad_image_error
from mgd3_fast.errors import UserError
from mgd3_fast.latents import ClassLatents
from mgd3_fast.train.latents import TrainingLatents, stored_latents
from mgd3_fast.train.run import TrainingRun

_KEPT_BYTES = 512 * 2**20
_READERS = 8


def training_images(run: TrainingRun) -> TrainingImages | StreamedImages:
    """The images of a run, by number."""
    if run.pixels is None:
        return TrainingImages(run.dataset, run.resolution, run.config.on_bad_image)
    return StreamedImages(stored_latents(run.pixels, run.dataset))


class StreamedImages:
    """Images of a stream by number, memory-mapped from where it was read into; bad ones are left out.

    Args:
        pixels: uint8 `[3, R, R]` of each image, class after class.
    """

    def __init__(self, pixels: list[ClassLatents]) -> None:
        self._pixels = TrainingLatents([pixels], list(range(len(pixels))))

    def __len__(self) -> int:
        return len(self._pixels)

    def load(self, indices: Tensor) -> Tensor:
        """Read images by number, int64 `[B]` in 0..len-1, as uint8 `[B, 3, R, R]`."""
        return self._pixels.batch(indices, torch.zeros_like(indices))[0].to(torch.uint8)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images once, as uint8 `[B, 3, R, R]`."""
        return (self.load(indices) for indices in torch.split(torch.arange(len(self)), batch_size))


class TrainingImages:
    """Square images of a dataset by number, kept in memory as far as half a gibibyte goes.

    Args:
        dataset: The images; number i counts through the classes in order.
        resolution: Side R in pixels.
        on_bad_image: "error", or "skip": the next readable image takes the place of a bad one.
    """

    def __init__(self, dataset: Dataset, resolution: int, on_bad_image: str) -> None:
        self.dataset, self.resolution, self.on_bad_image = dataset, resolution, on_bad_image
        counts = [len(cls) for cls in dataset.classes]
        self._starts = np.cumsum([0, *counts])
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._keep_at_most = _KEPT_BYTES // (3 * resolution**2)
        self._readers = ThreadPoolExecutor(_READERS)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def load(self, indices: Tensor) -> Tensor:
        """Read images by number, int64 `[B]` in 0..len-1, as uint8 `[B, 3, R, R]`.

        Raises:
            UserError: An image is bad and `on_bad_image` is "error", or all are.
        """
        wanted = indices.tolist()
        missing = [index for index in dict.fromkeys(wanted) if index not in self._kept]
        read = dict(zip(missing, self._readers.map(self._read, missing), strict=True))
        images = [read[index] if index in read else self._kept[index] for index in wanted]
        for index, image in read.items():
            if len(self._kept) < self._keep_at_most:
                self._kept[index] = image
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images once, as uint8 `[B, 3, R, R]`."""
        return (self.load(indices) for indices in torch.split(torch.arange(len(self)), batch_size))

    def _read(self, index: int) -> NDArray[np.uint8]:
        for attempt in range(len(self)):
            class_index, position = self._locate((index + attempt) % len(self))
            try:
                image = self.dataset.square(class_index, position, self.resolution)
                return np.asarray(image, dtype=np.uint8)
            except BadImageError as error:
                if self.on_bad_image == "error":
                    images = self.dataset.classes[class_index].images
                    raise bad_image_error(images.location(position), str(error)) from None
        raise UserError(f"dataset must have readable images, got none among {len(self)}")

    def _locate(self, index: int) -> tuple[int, int]:
        class_index = int(np.searchsorted(self._starts, index, side="right")) - 1
        return class_index, index - int(self._starts[class_index])
