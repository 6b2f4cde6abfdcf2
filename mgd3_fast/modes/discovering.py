"""Latents to modes: several classes side by side, or all that fit a device at once.

Finished classes are kept in small files, which a later call takes up.

Shape letters: n images of a class, K modes (= ipc), C channels, h w latent size, D = C*h*w.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from mgd3_fast.datasets import Dataset, ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents import ClassLatents, LatentStore
from mgd3_fast.modes.class_chunks import read_chunks
from mgd3_fast.modes.kmeans_engines import NO_ENGINE, kmeans_engine
from mgd3_fast.modes.method import KMEANS_METHOD_NAMES, BatchedDiscovery, ModeDiscovery, Modes, discovery
from mgd3_fast.modes.mode_set import ModeSet, empty_mode_set
from mgd3_fast.modes.threads import one_thread
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.tensor_files import (
    DamagedFileError,
    check_contents,
    open_tensors,
    remove_leftovers,
    save_tensors,
)

_FORMAT = "mgd3-fast class modes 2"
_KEEPERS = 4


def check_ipc(counts: Mapping[str, int], ipc: int) -> None:
    """Refuse more modes than a class has images.

    Args:
        counts: Images of each class.
        ipc: Modes wanted.

    Raises:
        UserError: Naming the class with the fewest images, or an ipc below 1.
    """
    if ipc < 1:
        raise UserError(f"ipc must be at least 1, got {ipc}")
    name = min(counts, key=counts.__getitem__)
    if counts[name] < ipc:
        raise UserError(
            f"ipc must be at most {counts[name]}, the number of images of class {name}, got {ipc}"
        )


def modes_key(
    dataset: Dataset, store: LatentStore, method: str, ipc: int, seed: int, *, kmeans: str = "sklearn"
) -> str:
    """Hex sha256 of all that the modes of a dataset depend on; `ModeSet.key` of what `discover_modes` gives.

    Args:
        dataset: The classes.
        store: Their latents; they need not be there yet.
        method: Name of the discovery method.
        ipc: Modes per class.
        seed: Seed of the method.
        kmeans: Name of the K-means engine; see `choose_engine`.

    Returns:
        The key.
    """
    job = _make_job(method, ipc, seed, kmeans, store, None)
    return hashlib.sha256("\n".join(job.key(cls) for cls in dataset.classes).encode()).hexdigest()


def classes_without_modes(
    dataset: Dataset,
    store: LatentStore,
    method: str,
    ipc: int,
    seed: int,
    workdir: Path,
    *,
    kmeans: str = "sklearn",
) -> list[int]:
    """Find out what a call of `discover_modes` would still have to do.

    Args:
        dataset: The classes.
        store: Their latents; they need not be there.
        method: Name of the discovery method.
        ipc: Modes per class.
        seed: Seed of the method.
        workdir: Folder with the results of single classes; need not exist.
        kmeans: Name of the K-means engine.

    Returns:
        Labels of the classes that have no result, and so need their latents.
    """
    job = _make_job(method, ipc, seed, kmeans, store, workdir)
    return [cls.label for cls in dataset.classes if job.kept(cls) is None]


def discover_modes(
    dataset: Dataset,
    store: LatentStore,
    latent_shape: tuple[int, int, int],
    method: str = "kmeans",
    ipc: int = 10,
    seed: int = 0,
    progress: Progress = SILENT,
    workdir: Path | None = None,
    *,
    kmeans: str = "sklearn",
    device: torch.device | None = None,
    num_workers: int | None = None,
    chunk_bytes: int | None = None,
) -> ModeSet:
    """Find the modes of every class.

    Args:
        dataset: The classes.
        store: Holds the latents of those without a result in `workdir`.
        latent_shape: (C, h, w) that the generator wants.
        method: Name of the discovery method; see `METHOD_NAMES`.
        ipc: Modes per class, at most the images of the smallest class.
        seed: Seed of the method, the same for each class, as the authors do.
        progress: Where the bar goes.
        workdir: Folder for the results of single classes, which a later call takes up; none by default.
        kmeans: Name of the K-means engine, for methods that have one.
        device: Where an engine for GPUs runs; the CPU by default.
        num_workers: Classes at a time on the CPU; by default one per processor, at most 16. The result does
            not depend on it.
        chunk_bytes: Latents that an engine for GPUs gets at a time; chosen from free memory by default. The
            result does not depend on it.

    Returns:
        The modes, classes in the dataset's order.

    Raises:
        UserError: A class without latents, with fewer images than `ipc`, or of another latent shape, found
            before any work starts; or latents that are not finite.
    """
    job = _make_job(method, ipc, seed, kmeans, store, workdir)
    results = [job.kept(cls) for cls in dataset.classes]
    lacking = [position for position, kept in enumerate(results) if kept is None]
    _check_latents([dataset.classes[position] for position in lacking], store, latent_shape, ipc)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(workdir)
    key = modes_key(dataset, store, method, ipc, seed, kmeans=kmeans)
    found = empty_mode_set(
        dataset.class_names, ipc, latent_shape, key=key, method=method, seed=seed, kmeans=job.kmeans
    )
    for position, kept in enumerate(results):
        if kept is not None:
            found.fill(position, kept)
    if lacking:
        engine = kmeans_engine(kmeans) if method in KMEANS_METHOD_NAMES else None
        # Made first: it loads the libraries whose threads are limited next.
        finder = discovery(method, latent_shape=latent_shape, engine=engine)
        total = len(dataset.classes)
        with (
            one_thread("blas"),
            progress.stage("discover", total=total, unit="class", initial=total - len(lacking)) as bar,
        ):
            if engine is not None and engine.on_device and isinstance(finder, BatchedDiscovery):
                place = device or torch.device("cpu")
                done = _fit_in_chunks(dataset, lacking, job, finder, place, chunk_bytes)
            else:
                workers = num_workers or min(16, len(os.sched_getaffinity(0)), len(lacking))
                done = _fit_side_by_side(dataset, lacking, job, finder, workers)
            with closing(done):
                for position, modes in done:
                    found.fill(position, modes)
                    bar.advance()
    return replace(found, source_images=_image_names(dataset, found.source_index))


def _fit_side_by_side(
    dataset: Dataset, positions: Sequence[int], job: _Job, method: ModeDiscovery, workers: int
) -> Generator[tuple[int, Modes], None, None]:
    """Fit several classes at a time on the CPU, each in a thread."""

    def fit(position: int) -> tuple[int, Modes]:
        return position, job.run(dataset.classes[position], method)

    with ThreadPoolExecutor(workers, thread_name_prefix="discover") as pool:
        try:
            for done in as_completed([pool.submit(fit, position) for position in positions]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fit_in_chunks(
    dataset: Dataset,
    positions: Sequence[int],
    job: _Job,
    method: BatchedDiscovery,
    device: torch.device,
    chunk_bytes: int | None,
) -> Generator[tuple[int, Modes], None, None]:
    """Fit as many classes at a time as their latents fit the device.

    While a chunk is fitted, the next one is read and the results of the one before are written, each of
    which is a flush to disk.
    """
    classes = [dataset.classes[position] for position in positions]
    first = job.latents(classes[0]).latents
    chunks = read_chunks(
        lambda place: job.latents(classes[place]),
        [len(job.latents(cls).latents) for cls in classes],
        math.prod(first.shape[1:]),
        first.dtype,
        device,
        most_bytes=chunk_bytes,
    )
    with ThreadPoolExecutor(_KEEPERS, thread_name_prefix="keep") as keepers:
        waiting: list[tuple[int, Future[Modes]]] = []
        for chunk in chunks:
            parts = [chunk.features[begin:end] for begin, end in pairwise(chunk.offsets)]
            _check_finite([classes[place] for place in chunk.places], parts)
            fitted = method.fit_many(chunk.features, chunk.offsets, job.ipc, job.seed)
            yield from ((position, kept.result()) for position, kept in waiting)
            waiting = [
                (positions[place], keepers.submit(job.keep, classes[place], modes))
                for place, modes in zip(chunk.places, fitted, strict=True)
            ]
        yield from ((position, kept.result()) for position, kept in waiting)


def _make_job(
    method: str, ipc: int, seed: int, kmeans: str, store: LatentStore, workdir: Path | None
) -> _Job:
    return _Job(method, ipc, seed, kmeans if method in KMEANS_METHOD_NAMES else NO_ENGINE, store, workdir)


@dataclass(frozen=True)
class _Job:
    """What is wanted of a class, and where its result is kept."""

    method: str
    ipc: int
    seed: int
    kmeans: str
    store: LatentStore
    workdir: Path | None

    def key(self, cls: ImageClass) -> str:
        # Without times of change: shards on machines with their own copies of the images share their modes.
        content = self.store.content_key(cls)
        settings = [_FORMAT, content, self.method, self.kmeans, str(self.ipc), str(self.seed)]
        return hashlib.sha256("\n".join(settings).encode()).hexdigest()

    def kept(self, cls: ImageClass) -> Modes | None:
        return None if self.workdir is None else _read_class_modes(self._path(cls, self.workdir))

    def latents(self, cls: ImageClass) -> ClassLatents:
        latents = self.store.open(cls)
        if latents is None:
            raise UserError(f"latents of class {cls.name} must stay during a run, got deleted")
        return latents

    def run(self, cls: ImageClass, method: ModeDiscovery) -> Modes:
        features = self.latents(cls).latents.flatten(1).float()  # [n, D]
        _check_finite([cls], [features])
        return self.keep(cls, method.fit(features, self.ipc, self.seed))

    def keep(self, cls: ImageClass, fitted: Modes) -> Modes:
        """Count source images in the class instead of in its latents, and write the result down."""
        assert bool(fitted.centers.isfinite().all()), f"modes of class {cls.name} are not finite"
        modes = Modes(fitted.centers, fitted.weights, self.latents(cls).index[fitted.source_index])
        if self.workdir is not None:
            tensors = {"centers": modes.centers, "weights": modes.weights, "source_index": modes.source_index}
            save_tensors(self._path(cls, self.workdir), tensors, {"format": _FORMAT, "class": cls.name})
        return modes

    def _path(self, cls: ImageClass, workdir: Path) -> Path:
        return workdir / f"{self.key(cls)}.safetensors"


def _read_class_modes(path: Path) -> Modes | None:
    try:
        file = open_tensors(path)
        check_contents(path, file)
    except (FileNotFoundError, DamagedFileError):
        return None
    return Modes(file.tensors["centers"], file.tensors["weights"], file.tensors["source_index"])


def _check_latents(
    classes: Sequence[ImageClass], store: LatentStore, shape: tuple[int, int, int], ipc: int
) -> None:
    counts = {}
    for cls in classes:
        found = store.open(cls)
        if found is None:
            raise UserError(f"latents of class {cls.name} must be encoded first, got none in {store.folder}")
        got = tuple(found.latents.shape[1:])
        if got != shape:
            raise UserError(f"latents of class {cls.name} must be {shape}, got {got} in {store.folder}")
        counts[cls.name] = len(found.latents)
    if counts:
        check_ipc(counts, ipc)


def _check_finite(classes: Sequence[ImageClass], features: Sequence[Tensor]) -> None:
    # One infinite or undefined number makes the sum so: a pass over the latents, and a few numbers back.
    finite = torch.stack([latents.sum(dtype=torch.float64) for latents in features]).isfinite()
    for cls, is_finite in zip(classes, finite.tolist(), strict=True):
        if not is_finite:
            raise UserError(
                f"latents of class {cls.name} must be finite, got infinite or undefined numbers:"
                " encode again with precision fp32"
            )


def _image_names(dataset: Dataset, source_index: Tensor) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(cls.images.name(image) for image in images)
        for cls, images in zip(dataset.classes, source_index.tolist(), strict=True)
    )
