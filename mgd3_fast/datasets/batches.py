"""Decode, frame and batch images on worker threads; only a few batches are in memory at any time.

Threads, not processes: Pillow releases the interpreter's lock while it decodes and resizes, so threads are
as fast (`bench/speed/bench_encode.py` measures both), and they need no shared memory, no forking beside
CUDA, and no start-up per class.

Shape letters: B images, R pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from mgd3_fast.config.fields import ON_BAD_IMAGE
from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.decoding import BadImageError
from mgd3_fast.datasets.images import ImageSource
from mgd3_fast.datasets.shards import Shard
from mgd3_fast.devices import usable_processors
from mgd3_fast.errors import UserError
from mgd3_fast.storage.remote_path import REQUESTS

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
    """Stream the good images of one class, as the dataset frames them, in their order.

    Args:
        dataset: Where the images are.
        class_index: Position in `dataset.classes`.
        resolution: R, pixels a side.
        batch_size: Most images of a batch; the last one may have fewer.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; see `threads_for`.
        bad_images: Receives what was skipped.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, or no good image in the class.
    """
    check_rule(on_bad_image)
    cls = dataset.classes[class_index]
    if num_workers is None:
        num_workers = threads_for([cls.images])
    jobs = (
        partial(
            load_image, cls.name, i, cls.images.name(i), partial(dataset.square, class_index, i, resolution)
        )
        for i in range(len(cls))
    )
    indices: list[int] = []
    good: list[NDArray[np.uint8]] = []
    any_good = False
    for index, image in enumerate(run_ahead(jobs, num_workers, _LOOKAHEAD)):
        if not isinstance(image, BadImage):
            indices.append(index)
            good.append(image)
        elif on_bad_image == "error":
            raise bad_image_error(cls.images.location(index), image.reason)
        elif bad_images is not None:
            bad_images.append(image)
        if good and (len(good) == batch_size or index == len(cls) - 1):
            any_good = True
            yield ImageBatch(torch.tensor(indices), torch.from_numpy(np.stack(good)))  # [B, 3, R, R]
            indices, good = [], []
    if not any_good:
        raise no_good_image_error(cls.name, len(cls))


def threads_for(sources: Sequence[ImageSource | Shard]) -> int | None:
    """Threads that loading is worth: 0 from memory, 32 from a network, else None for one a processor."""
    if all(source.in_memory for source in sources):
        return 0
    return REQUESTS if any(source.is_remote for source in sources) else None


def check_rule(on_bad_image: str) -> None:
    """Refuse anything but "error" and "skip"."""
    if on_bad_image not in ON_BAD_IMAGE:
        raise UserError(f"on_bad_image must be one of {', '.join(ON_BAD_IMAGE)}, got {on_bad_image!r}")


def bad_image_error(where: str, reason: str) -> UserError:
    """What a bad image is under `on_bad_image="error"`."""
    return UserError(f"{where} cannot be read: {reason} (--on-bad-image skip leaves such images out)")


def no_good_image_error(class_name: str, count: int) -> UserError:
    """What a class is whose images are all bad."""
    return UserError(f"none of the {count} images of class {class_name} can be read")


def load_image(
    class_name: str, image_index: int, image_name: str, load: Callable[[], Image]
) -> NDArray[np.uint8] | BadImage:
    """Load one image as uint8 [3, R, R]; a damaged one comes back as the reason why.

    Args:
        class_name: Name of its class.
        image_index: Place in the class, or in the shard.
        image_name: Name inside the class.
        load: Gives the RGB square.
    """
    try:
        pixels: NDArray[np.uint8] = np.asarray(load()).transpose(2, 0, 1)
    except BadImageError as error:
        return BadImage(class_name, image_index, image_name, str(error))
    return pixels


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
        num_workers = min(_MOST_WORKERS, usable_processors())
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
