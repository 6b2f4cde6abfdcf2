"""Latents to modes: several classes side by side, or all that fit a device at once.

Finished classes are kept in small files, which a later call takes up.

Shape letters: K modes (= ipc), C channels, h w latent size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from mgd3_fast.datasets import Dataset, ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore
from mgd3_fast.modes.class_modes import ClassModes
from mgd3_fast.modes.clusters import one_thread
from mgd3_fast.modes.kmeans_runners import NO_RUNNER, kmeans_runner
from mgd3_fast.modes.method import BatchedDiscovery, method_named
from mgd3_fast.modes.mode_set import ModeSet, empty_mode_set
from mgd3_fast.modes.spec import Discovery
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.tensor_files import remove_leftovers


def check_ipc(counts: Mapping[str, int], ipc: int) -> None:
    """Refuse more modes per class (`ipc`) than one has images (`counts`, by class name).

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

    The latents need not be there yet.
    """
    modes = ClassModes(discovery, store, None)
    return hashlib.sha256("\n".join(modes.key(cls) for cls in dataset.classes).encode()).hexdigest()


def latents_of(dataset: Dataset, store: LatentStore) -> dict[str, str]:
    """Say what latents are of and how they are made; what `ModeSet.latents` keeps.

    The first four are what modes may not differ in, the others are number formats.
    """
    images = "\n".join(cls.fingerprint for cls in dataset.classes)
    return {
        "images": hashlib.sha256(images.encode()).hexdigest(),
        "autoencoder": store.autoencoder_digest,
        "resolution": f"{store.resolution} px",
        "flip": store.flip,
        "precision": str(store.dtype).removeprefix("torch."),
        "storage": str(store.storage_dtype).removeprefix("torch."),
    }


def classes_without_modes(
    dataset: Dataset, store: LatentStore, discovery: Discovery, workdir: Path
) -> list[int]:
    """Labels of the classes without a result in `workdir`, whose latents `discover_modes` would need."""
    modes = ClassModes(discovery, store, workdir)
    return [cls.label for cls in dataset.classes if modes.kept(cls) is None]


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
    of_class = ClassModes(discovery, store, workdir)
    results = [of_class.kept(cls) for cls in dataset.classes]
    lacking = [position for position, kept in enumerate(results) if kept is None]
    classes = [dataset.classes[position] for position in lacking]
    _check_latents(classes, store, latent_shape, discovery.ipc)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(workdir)
    key = modes_key(dataset, store, discovery)
    found = empty_mode_set(dataset.class_names, latent_shape, discovery, key)
    for position, kept in enumerate(results):
        if kept is not None:
            found.fill(position, kept)
    if classes:
        # Made first: it loads the libraries whose threads are limited next.
        runner = None if discovery.kmeans == NO_RUNNER else kmeans_runner(discovery.kmeans)
        method = method_named(discovery.method, latent_shape=latent_shape, runner=runner)
        if runner is not None and runner.on_device and isinstance(method, BatchedDiscovery):
            fitted = of_class.fit_in_chunks(classes, method, chunk_bytes)
        else:
            workers = num_workers or min(16, len(os.sched_getaffinity(0)), len(classes))
            fitted = of_class.fit_side_by_side(classes, method, workers)
        total = len(results)
        with (
            one_thread("blas"),
            progress.stage("discover", total=total, unit="class", initial=total - len(lacking)) as bar,
            closing(fitted),
        ):
            for place, modes in fitted:
                found.fill(lacking[place], modes)
                bar.advance()
    names = [
        tuple(cls.images.name(image) for image in images)
        for cls, images in zip(dataset.classes, found.source_index.tolist(), strict=True)
    ]
    return replace(found, source_images=tuple(names), latents=latents_of(dataset, store))


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
