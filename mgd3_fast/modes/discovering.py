"""Latents to modes: several classes side by side, or all that fit a device at once.

Finished classes are kept in small files, which a later call takes up.

Shape letters: n images of a class, K modes (= ipc), C channels, h w latent size, D = C*h*w.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mgd3_fast.datasets import Dataset, ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore
from mgd3_fast.modes.class_job import ClassJob
from mgd3_fast.modes.fitting import fit_in_chunks, fit_side_by_side
from mgd3_fast.modes.kmeans_runners import NO_RUNNER, kmeans_runner
from mgd3_fast.modes.method import BatchedDiscovery, method_named
from mgd3_fast.modes.mode_set import ModeSet, empty_mode_set
from mgd3_fast.modes.spec import Discovery
from mgd3_fast.modes.threads import one_thread
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.tensor_files import remove_leftovers


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


def modes_key(dataset: Dataset, store: LatentStore, discovery: Discovery) -> str:
    """Hex sha256 of all that the modes of a dataset depend on; `ModeSet.key` of what `discover_modes` gives.

    Args:
        dataset: The classes.
        store: Their latents; they need not be there yet.
        discovery: How modes are found.

    Returns:
        The key.
    """
    job = ClassJob(discovery, store, None)
    return hashlib.sha256("\n".join(job.key(cls) for cls in dataset.classes).encode()).hexdigest()


def classes_without_modes(
    dataset: Dataset, store: LatentStore, discovery: Discovery, workdir: Path
) -> list[int]:
    """Find out what a call of `discover_modes` would still have to do.

    Args:
        dataset: The classes.
        store: Their latents; they need not be there.
        discovery: How modes are found.
        workdir: Folder with the results of single classes; need not exist.

    Returns:
        Labels of the classes that have no result, and so need their latents.
    """
    job = ClassJob(discovery, store, workdir)
    return [cls.label for cls in dataset.classes if job.kept(cls) is None]


def discover_modes(
    dataset: Dataset,
    store: LatentStore,
    latent_shape: tuple[int, int, int],
    discovery: Discovery,
    workdir: Path | None = None,
    progress: Progress = SILENT,
    *,
    num_workers: int | None = None,
    chunk_bytes: int | None = None,
) -> ModeSet:
    """Find the modes of every class.

    Args:
        dataset: The classes.
        store: Holds the latents of those without a result in `workdir`.
        latent_shape: (C, h, w) that the generator wants.
        discovery: How modes are found.
        workdir: Folder for the results of single classes, which a later call takes up; none by default.
        progress: Where the bar goes.
        num_workers: Classes at a time on the CPU; by default one per processor, at most 16. The result does
            not depend on it.
        chunk_bytes: Latents that a runner for GPUs gets at a time; chosen from free memory by default. The
            result does not depend on it.

    Returns:
        The modes, classes in the dataset's order.

    Raises:
        UserError: A class without latents, with fewer images than `ipc`, or of another latent shape, found
            before any work starts; or latents that are not finite.
    """
    job = ClassJob(discovery, store, workdir)
    results = [job.kept(cls) for cls in dataset.classes]
    lacking = [position for position, kept in enumerate(results) if kept is None]
    _check_latents([dataset.classes[position] for position in lacking], store, latent_shape, discovery.ipc)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(workdir)
    key = modes_key(dataset, store, discovery)
    found = empty_mode_set(dataset.class_names, latent_shape, discovery, key)
    for position, kept in enumerate(results):
        if kept is not None:
            found.fill(position, kept)
    if lacking:
        # Made first: it loads the libraries whose threads are limited next.
        runner = None if discovery.kmeans == NO_RUNNER else kmeans_runner(discovery.kmeans)
        method = method_named(discovery.method, latent_shape=latent_shape, runner=runner)
        if runner is not None and runner.on_device and isinstance(method, BatchedDiscovery):
            fitted = fit_in_chunks(dataset, lacking, job, method, chunk_bytes)
        else:
            workers = num_workers or min(16, len(os.sched_getaffinity(0)), len(lacking))
            fitted = fit_side_by_side(dataset, lacking, job, method, workers)
        total = len(dataset.classes)
        with (
            one_thread("blas"),
            progress.stage("discover", total=total, unit="class", initial=total - len(lacking)) as bar,
            closing(fitted),
        ):
            for position, modes in fitted:
                found.fill(position, modes)
                bar.advance()
    return replace(found, source_images=_image_names(dataset, found.source_index))


def _check_latents(
    classes: Sequence[ImageClass], store: LatentStore, shape: tuple[int, int, int], ipc: int
) -> None:
    counts = {}
    for cls in classes:
        found = store.open(cls)
        if found is None:
            raise UserError(f"latents of class {cls.name} must be encoded first, got none in {store.folder}")
        if found.item != shape:
            raise UserError(
                f"latents of class {cls.name} must be {shape}, got {found.item} in {store.folder}"
            )
        counts[cls.name] = len(found)
    if counts:
        check_ipc(counts, ipc)


def _image_names(dataset: Dataset, source_index: Tensor) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(cls.images.name(image) for image in images)
        for cls, images in zip(dataset.classes, source_index.tolist(), strict=True)
    )
