"""Latents to modes: class by class, several classes side by side, finished classes kept in small files.

Shape letters: n images of a class, K modes (= ipc), C channels, h w latent size, D = C*h*w.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.datasets import Dataset, ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore
from mgd3_fast.modes.method import ModeDiscovery, Modes, discovery
from mgd3_fast.modes.mode_set import ModeSet, empty_mode_set
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.tensor_files import (
    DamagedFileError,
    check_contents,
    open_tensors,
    remove_leftovers,
    save_tensors,
)

_FORMAT = "mgd3-fast class modes 1"


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


def modes_key(dataset: Dataset, store: LatentStore, method: str, ipc: int, seed: int) -> str:
    """Hex sha256 of all that the modes of a dataset depend on; `ModeSet.key` of what `discover_modes` gives.

    Args:
        dataset: The classes.
        store: Their latents; they need not be there yet.
        method: Name of the discovery method.
        ipc: Modes per class.
        seed: Seed of the method.

    Returns:
        The key.
    """
    keys = (_class_key(store, cls, method, ipc, seed) for cls in dataset.classes)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def classes_without_modes(
    dataset: Dataset, store: LatentStore, method: str, ipc: int, seed: int, workdir: Path
) -> list[int]:
    """Find out what a call of `discover_modes` would still have to do.

    Args:
        dataset: The classes.
        store: Their latents; they need not be there.
        method: Name of the discovery method.
        ipc: Modes per class.
        seed: Seed of the method.
        workdir: Folder with the results of single classes; need not exist.

    Returns:
        Labels of the classes that have no result, and so need their latents.
    """
    job = _Job(method, ipc, seed, store, workdir)
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
    num_workers: int | None = None,
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
        num_workers: Classes at a time; by default one per processor, at most 16. The result does not
            depend on it.

    Returns:
        The modes, classes in the dataset's order.

    Raises:
        UserError: A class without latents, with fewer images than `ipc`, or of another latent shape; found
            before any work starts.
    """
    job = _Job(method, ipc, seed, store, workdir)
    results = [job.kept(cls) for cls in dataset.classes]
    lacking = [position for position, kept in enumerate(results) if kept is None]
    _check_latents([dataset.classes[position] for position in lacking], store, latent_shape, ipc)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(workdir)
    key = modes_key(dataset, store, method, ipc, seed)
    found = empty_mode_set(dataset.class_names, ipc, latent_shape, key=key, method=method, seed=seed)
    for position, kept in enumerate(results):
        if kept is not None:
            found.fill(position, kept)
    if lacking:
        workers = num_workers or min(16, len(os.sched_getaffinity(0)), len(lacking))
        _fit_classes(dataset, lacking, job, found, workers, progress)
    return found


def _fit_classes(
    dataset: Dataset, positions: Sequence[int], job: _Job, found: ModeSet, workers: int, progress: Progress
) -> None:
    # Made first: it loads the libraries whose threads are limited next.
    method = discovery(job.method)

    def fit(position: int) -> None:
        found.fill(position, job.run(dataset.classes[position], method))

    total = len(dataset.classes)
    with (
        _single_threaded_blas(),
        progress.stage("discover", total=total, unit="class", initial=total - len(positions)) as bar,
        ThreadPoolExecutor(workers, thread_name_prefix="discover") as pool,
    ):
        try:
            for done in as_completed([pool.submit(fit, position) for position in positions]):
                done.result()
                bar.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Job:
    """What is wanted of a class, and where its result is kept."""

    method: str
    ipc: int
    seed: int
    store: LatentStore
    workdir: Path | None

    def kept(self, cls: ImageClass) -> Modes | None:
        return None if self.workdir is None else _read_class_modes(self._path(cls, self.workdir))

    def run(self, cls: ImageClass, method: ModeDiscovery) -> Modes:
        latents = self.store.open(cls)
        if latents is None:
            raise UserError(f"latents of class {cls.name} must stay during a run, got deleted")
        features = latents.latents.flatten(1).float()  # [n, D]
        fitted = method.fit(features, self.ipc, self.seed)
        modes = Modes(fitted.centers, fitted.weights, latents.index[fitted.source_index])
        if self.workdir is not None:
            tensors = {"centers": modes.centers, "weights": modes.weights, "source_index": modes.source_index}
            save_tensors(self._path(cls, self.workdir), tensors, {"format": _FORMAT, "class": cls.name})
        return modes

    def _path(self, cls: ImageClass, workdir: Path) -> Path:
        return workdir / f"{_class_key(self.store, cls, self.method, self.ipc, self.seed)}.safetensors"


def _class_key(store: LatentStore, cls: ImageClass, method: str, ipc: int, seed: int) -> str:
    # Without times of change: shards on machines with their own copies of the images share their modes.
    settings = [_FORMAT, store.content_key(cls), method, str(ipc), str(seed)]
    return hashlib.sha256("\n".join(settings).encode()).hexdigest()


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


def _single_threaded_blas() -> AbstractContextManager[object]:
    """Hold linear algebra at one thread while classes run side by side.

    The limit is the process's, not a thread's: were it set in each fit alone, the first fit to end would
    lift it from the others.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
