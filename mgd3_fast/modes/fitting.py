"""Classes fitted several side by side on a CPU, or as many at once as fit a device.

Shape letters: n images of a class, D = C*h*w.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import pairwise

from mgd3_fast.datasets import Dataset
from mgd3_fast.modes.class_chunks import read_chunks
from mgd3_fast.modes.class_job import ClassJob, check_finite
from mgd3_fast.modes.method import BatchedDiscovery, ModeDiscovery, Modes

_KEEPERS = 4  # threads that wait for the disk


def fit_side_by_side(
    dataset: Dataset, positions: Sequence[int], job: ClassJob, method: ModeDiscovery, workers: int
) -> Generator[tuple[int, Modes], None, None]:
    """Fit several classes at a time on the CPU, each in a thread.

    Args:
        dataset: The classes.
        positions: Those to fit.
        job: What is wanted of each.
        method: Shared by all threads.
        workers: Classes at a time.

    Yields:
        Position and modes of each class, as they are done.

    Raises:
        UserError: Latents are gone or not finite.
    """

    def fit(position: int) -> tuple[int, Modes]:
        return position, job.run(dataset.classes[position], method)

    with ThreadPoolExecutor(workers, thread_name_prefix="discover") as pool:
        try:
            for done in as_completed([pool.submit(fit, position) for position in positions]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fit_in_chunks(
    dataset: Dataset,
    positions: Sequence[int],
    job: ClassJob,
    method: BatchedDiscovery,
    chunk_bytes: int | None,
) -> Generator[tuple[int, Modes], None, None]:
    """Fit as many classes at a time as their latents fit the device.

    While a chunk is fitted, the next one is read and the results of the one before are written, each of
    which is a flush to disk.

    Args:
        dataset: The classes.
        positions: Those to fit.
        job: What is wanted of each.
        method: Gets the features of a chunk.
        chunk_bytes: See `read_chunks`.

    Yields:
        Position and modes of each class, in order.

    Raises:
        UserError: Latents are gone or not finite.
    """
    classes = [dataset.classes[position] for position in positions]
    first, wanted = job.latents(classes[0]), job.discovery
    chunks = read_chunks(
        lambda place: job.latents(classes[place]).latents,
        [len(job.latents(cls)) for cls in classes],
        math.prod(first.item),
        first.dtype,
        wanted.device,
        most_bytes=chunk_bytes,
    )
    with ThreadPoolExecutor(_KEEPERS, thread_name_prefix="keep") as keepers:
        waiting: list[tuple[int, Future[Modes]]] = []
        for chunk in chunks:
            parts = [chunk.features[begin:end] for begin, end in pairwise(chunk.offsets)]
            check_finite([classes[place] for place in chunk.places], parts)
            fitted = method.fit_many(chunk.features, chunk.offsets, wanted.ipc, wanted.seed)
            yield from ((position, kept.result()) for position, kept in waiting)
            waiting = [
                (positions[place], keepers.submit(job.keep, classes[place], modes))
                for place, modes in zip(chunk.places, fitted, strict=True)
            ]
        yield from ((position, kept.result()) for position, kept in waiting)
