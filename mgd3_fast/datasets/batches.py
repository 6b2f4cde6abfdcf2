"""Decode, crop and batch images on worker threads; only a few batches are in memory at any time.

Threads, not processes: Pillow releases the interpreter's lock while it decodes and resizes, so threads are
as fast (`bench/speed/bench_encode.py` measures both), and they need no shared memory, no forking beside
CUDA, and no start-up per class.

Shape letters: B images, R pixels a side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from mgd3_fast.config.encode import ON_BAD_IMAGE
from mgd3_fast.datasets.cropping import center_crop
from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.decoding import BadImageError
from mgd3_fast.errors import UserError

_MOST_WORKERS = 16
_LOOKAHEAD = 64
Result = TypeVar("Result")


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
    """Stream the good images of one class, centre-cropped, in their order.

    Args:
        dataset: Where the images are.
        class_index: Position in `dataset.classes`.
        resolution: R, pixels a side.
        batch_size: Most images of a batch; the last one may have fewer.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; by default one per processor, at most 16, none for images in memory.
        bad_images: Receives what was skipped.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, or no good image in the class.
    """
    bad: list[BadImage] = [] if bad_images is None else bad_images
    good = _good_images(
        stream_images(dataset, [class_index], resolution, on_bad_image, num_workers=num_workers), bad
    )
    any_good = False
    while batch := list(islice(good, batch_size)):
        any_good = True
        indices = torch.tensor([index for index, _ in batch], dtype=torch.int64)
        yield ImageBatch(indices, torch.from_numpy(np.stack([pixels for _, pixels in batch])))  # [B, 3, R, R]
    if not any_good:
        raise no_good_image_error(dataset.classes[class_index].name, len(dataset.classes[class_index]))


def stream_images(
    dataset: Dataset,
    class_indices: Iterable[int],
    resolution: int,
    on_bad_image: str = "error",
    *,
    num_workers: int | None = None,
    lookahead: int = _LOOKAHEAD,
) -> Iterator[LoadedImage]:
    """Stream the images of several classes, bad ones included, decoding ahead across class borders.

    Args:
        dataset: Where the images are.
        class_indices: Positions in `dataset.classes`; taken lazily.
        resolution: Pixels a side.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; by default one per processor, at most 16, none for images in memory.
        lookahead: Most images that wait decoded.

    Raises:
        UserError: A bad image with `on_bad_image="error"`; unknown rule.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise UserError(f"on_bad_image must be one of {', '.join(ON_BAD_IMAGE)}, got {on_bad_image!r}")
    jobs = (
        partial(_load, dataset, c, i, resolution)
        for c in class_indices
        for i in range(len(dataset.classes[c]))
    )
    if num_workers is None and all(cls.images.in_memory for cls in dataset.classes):
        num_workers = 0
    for image in run_ahead(jobs, num_workers, lookahead):
        if isinstance(image.pixels, BadImage) and on_bad_image == "error":
            where = dataset.classes[image.class_index].images.location(image.image_index)
            raise bad_image_error(where, image.pixels.reason)
        yield image


def bad_image_error(where: str, reason: str) -> UserError:
    """What a bad image is under `on_bad_image="error"`."""
    return UserError(
        f"images must be readable, got {where}: {reason} (on_bad_image=skip leaves such images out)"
    )


def no_good_image_error(class_name: str, count: int) -> UserError:
    """What a class is whose images are all bad."""
    return UserError(f"class {class_name} must have at least one good image, all {count} are bad")


def _good_images(
    loaded: Iterable[LoadedImage], bad: list[BadImage]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for image in loaded:
        if isinstance(image.pixels, BadImage):
            bad.append(image.pixels)
        else:
            yield image.image_index, image.pixels


def load_image(
    class_name: str, image_index: int, image_name: str, resolution: int, load: Callable[[], Image]
) -> NDArray[np.uint8] | BadImage:
    """Load and crop one image to uint8 [3, R, R]; a damaged one comes back as the reason why.

    Args:
        class_name: Name of its class.
        image_index: Place in the class, or in the shard.
        image_name: Name inside the class.
        resolution: R, pixels a side.
        load: Gives the RGB image at full size.
    """
    try:
        cropped = center_crop(load(), resolution)
    except BadImageError as error:
        return BadImage(class_name, image_index, image_name, str(error))
    pixels: NDArray[np.uint8] = np.asarray(cropped).transpose(2, 0, 1)
    return pixels


def _load(dataset: Dataset, class_index: int, image_index: int, resolution: int) -> LoadedImage:
    cls = dataset.classes[class_index]
    name, load = cls.images.name(image_index), partial(cls.images.load, image_index)
    return LoadedImage(class_index, image_index, load_image(cls.name, image_index, name, resolution, load))


def run_ahead(
    jobs: Iterator[Callable[[], Result]], num_workers: int | None, lookahead: int
) -> Generator[Result]:
    """Run jobs on threads, a bounded number of them ahead of whoever takes the results; in their order.

    Args:
        jobs: Taken, and closed in the end, on a thread of its own, so that reading and working overlap.
        num_workers: Threads; by default one per processor, at most 16; 0 runs each job when it is asked for.
        lookahead: Most jobs that are taken before their results are asked for.

    Raises:
        BaseException: What taking or running a job raised, after the results before it.
    """
    if num_workers is None:
        num_workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    if num_workers == 0:
        yield from (job() for job in jobs)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")
    room, stopped = Semaphore(lookahead), Event()
    results: SimpleQueue[Future[Result] | None] = SimpleQueue()

    def take_jobs() -> None:
        with pool:
            try:
                room.acquire()
                for job in jobs:
                    results.put(pool.submit(job))
                    room.acquire()
                    if stopped.is_set():
                        break
            except BaseException as error:
                failed: Future[Result] = Future()
                failed.set_exception(error)
                results.put(failed)
            finally:
                if isinstance(jobs, Generator):
                    jobs.close()
        results.put(None)

    taker = Thread(target=take_jobs, name="read", daemon=True)
    taker.start()
    try:
        while (result := results.get()) is not None:
            room.release()
            yield result.result()
    finally:
        stopped.set()
        room.release()
        pool.shutdown(wait=False, cancel_futures=True)
        taker.join()
