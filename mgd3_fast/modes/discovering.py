"""Latents to modes: several classes side by side, or all that fit a device at once.

Finished classes are kept in small files, which a later call takes up.

Shape letters: K modes (= ipc), C channels, h w latent size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch

from mgd3_fast.datasets import Dataset, ImageClass
from mgd3_fast.devices import usable_processors
from mgd3_fast.errors import UserError
from mgd3_fast.latents import LatentStore
from mgd3_fast.modes.class_modes import ClassModes
from mgd3_fast.modes.clusters import one_thread
from mgd3_fast.modes.kmeans import KMeansDiscovery
from mgd3_fast.modes.kmeans_runners import NO_RUNNER, kmeans_runner
from mgd3_fast.modes.method import Discovery, method_named
from mgd3_fast.modes.mode_set import Modes, ModeSet
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

    The last two are number formats, all others are what modes may not differ in.
    """
    images = "\n".join(cls.fingerprint for cls in dataset.classes)
    return {
        "images": hashlib.sha256(images.encode()).hexdigest(),
        "autoencoder": store.autoencoder_digest,
        "resolution": f"{store.resolution} px",
        "flip": store.flip,
        **store.framing.record(),
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
    """Find the modes of every class, in the dataset's order.

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
    if classes:
        fitted, total = _fitted(of_class, classes, latent_shape, num_workers, chunk_bytes), len(results)
        with (
            one_thread("blas"),
            progress.stage("discover", total=total, unit="class", initial=total - len(classes)) as bar,
            closing(fitted),
        ):
            for place, modes in fitted:
                results[lacking[place]] = modes
                bar.advance()
    found = [modes for modes in results if modes is not None]
    return ModeSet(
        class_names=dataset.class_names,
        modes=torch.stack([modes.centers.reshape(-1, *latent_shape) for modes in found]),
        weights=torch.stack([modes.weights for modes in found]),
        source_index=torch.stack([modes.source_index for modes in found]),
        key=modes_key(dataset, store, discovery),
        method=discovery.method,
        seed=discovery.seed,
        kmeans=discovery.kmeans,
        source_images=tuple(
            tuple(map(cls.images.name, modes.source_index.tolist()))
            for cls, modes in zip(dataset.classes, found, strict=True)
        ),
        latents=latents_of(dataset, store),
    )


def _fitted(
    of_class: ClassModes,
    classes: Sequence[ImageClass],
    latent_shape: tuple[int, int, int],
    num_workers: int | None,
    chunk_bytes: int | None,
) -> Generator[tuple[int, Modes], None, None]:
    """Choose how classes are fitted; the method's libraries are loaded when this returns."""
    wanted = of_class.discovery
    runner = None if wanted.kmeans == NO_RUNNER else kmeans_runner(wanted.kmeans)
    method = method_named(wanted.method, latent_shape=latent_shape, runner=runner)
    if isinstance(method, KMeansDiscovery) and method.on_device:
        return of_class.fit_in_chunks(classes, method, chunk_bytes)
    workers = num_workers or min(16, usable_processors(), len(classes))
    return of_class.fit_side_by_side(classes, method, workers)


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
