"""Decode, crop and batch images on worker threads; only a few batches are in memory at any time.

Threads, not processes: Pillow releases the interpreter's lock while it decodes and resizes, and threads
need no shared memory, no forking beside CUDA, and no start-up per class.

Shape letters: B images, R pixels a side.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets.cropping import center_crop
from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.decoding import BadImageError
from mgd3_fast.errors import UserError

BAD_IMAGE_RULES = ("error", "skip")


@dataclass(frozen=True)
class BadImage:
    """An image that was left out, and why."""

    class_name: str
    image_index: int
    image_name: str
    reason: str


class ImageBatch(NamedTuple):
    """Images of one class.

    Args:
        indices: int64 [B], positions in the class.
        images: uint8 [B, 3, R, R].
    """

    indices: Tensor
    images: Tensor


class LoadedImage(NamedTuple):
    """One image of a stream: uint8 [3, R, R], or why it is bad."""

    class_index: int
    image_index: int
    pixels: NDArray[np.uint8] | BadImage


def image_batches(
    dataset: Dataset,
    class_index: int,
    resolution: int,
    batch_size: int,
    on_bad_image: str = "error",
    *,
    num_workers: int | None = None,
    bad_images: list[BadImage] | None = None,
) -> Iterator[ImageBatch]:
    """Stream the images of one class, centre-cropped.

    Args:
        dataset: Where the images are.
        class_index: Position in `dataset.classes`.
        resolution: R, pixels a side.
        batch_size: Most images of a batch; the last one may have fewer.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; by default min(4, processors), none for images in memory.
        bad_images: Receives what was skipped.

    Yields:
        Batches in image order.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, or no good image in the class.
    """
    loaded = stream_images(dataset, [class_index], resolution, on_bad_image, num_workers=num_workers)
    yield from batch_images(loaded, batch_size, bad_images)


def stream_images(
    dataset: Dataset,
    class_indices: Iterable[int],
    resolution: int,
    on_bad_image: str = "error",
    *,
    num_workers: int | None = None,
    lookahead: int = 64,
) -> Iterator[LoadedImage]:
    """Stream the images of several classes, decoding ahead across class borders.

    Args:
        dataset: Where the images are.
        class_indices: Positions in `dataset.classes`; taken lazily.
        resolution: Pixels a side.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; by default min(4, processors), none for images in memory.
        lookahead: Most images that wait decoded.

    Yields:
        Every image, bad ones included, in class and image order.

    Raises:
        UserError: A bad image with `on_bad_image="error"`; unknown rule.
    """
    if on_bad_image not in BAD_IMAGE_RULES:
        raise UserError(f"on_bad_image must be one of {', '.join(BAD_IMAGE_RULES)}, got {on_bad_image!r}")
    positions = ((c, i) for c in class_indices for i in range(len(dataset.classes[c])))
    if num_workers is None:
        in_memory = all(cls.images.in_memory for cls in dataset.classes)
        num_workers = 0 if in_memory else min(4, os.cpu_count() or 1)
    if num_workers == 0:
        loaded: Iterator[LoadedImage] = (_load(dataset, c, i, resolution) for c, i in positions)
    else:
        loaded = _load_ahead(dataset, positions, resolution, num_workers, lookahead)
    for image in loaded:
        if isinstance(image.pixels, BadImage) and on_bad_image == "error":
            where = dataset.classes[image.class_index].images.location(image.image_index)
            raise UserError(
                f"images must be readable, got {where}: {image.pixels.reason} "
                "(on_bad_image=skip leaves such images out)"
            )
        yield image


def batch_images(
    loaded: Iterable[LoadedImage], batch_size: int, bad_images: list[BadImage] | None = None
) -> Iterator[ImageBatch]:
    """Stack the good images of one class.

    Args:
        loaded: Images of one class.
        batch_size: Most images of a batch.
        bad_images: Receives the bad ones.

    Yields:
        Batches in image order.

    Raises:
        UserError: All images are bad.
    """
    bad: list[BadImage] = [] if bad_images is None else bad_images
    first_bad = len(bad)
    good = _good_images(loaded, bad)
    any_good = False
    while batch := list(islice(good, batch_size)):
        any_good = True
        indices = torch.tensor([index for index, _ in batch], dtype=torch.int64)
        yield ImageBatch(indices, torch.from_numpy(np.stack([pixels for _, pixels in batch])))  # [B, 3, R, R]
    if not any_good:
        skipped = bad[first_bad:]
        name = skipped[0].class_name if skipped else "?"
        raise UserError(f"class {name} must have at least one good image, all {len(skipped)} are bad")


def by_class(loaded: Iterable[LoadedImage]) -> Iterator[tuple[int, Iterator[LoadedImage]]]:
    """Split a stream into (class index, its images); each part is to be used up before the next."""
    return groupby(loaded, key=lambda image: image.class_index)


def _good_images(
    loaded: Iterable[LoadedImage], bad: list[BadImage]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for image in loaded:
        if isinstance(image.pixels, BadImage):
            bad.append(image.pixels)
        else:
            yield image.image_index, image.pixels


def _load(dataset: Dataset, class_index: int, image_index: int, resolution: int) -> LoadedImage:
    cls = dataset.classes[class_index]
    try:
        cropped = center_crop(cls.images.load(image_index), resolution)
    except BadImageError as error:
        bad = BadImage(cls.name, image_index, cls.images.name(image_index), str(error))
        return LoadedImage(class_index, image_index, bad)
    return LoadedImage(class_index, image_index, np.asarray(cropped).transpose(2, 0, 1))  # [3, R, R]


def _load_ahead(
    dataset: Dataset, positions: Iterator[tuple[int, int]], resolution: int, num_workers: int, lookahead: int
) -> Iterator[LoadedImage]:
    waiting: deque[Future[LoadedImage]] = deque()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")
    try:
        for class_index, image_index in islice(positions, lookahead):
            waiting.append(pool.submit(_load, dataset, class_index, image_index, resolution))
        while waiting:
            yield waiting.popleft().result()
            for class_index, image_index in islice(positions, 1):
                waiting.append(pool.submit(_load, dataset, class_index, image_index, resolution))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
