"""The first two stages, alone or on the way to images: images to latents, latents to modes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mgd3_fast.errors import UserError
from mgd3_fast.latents import EncodeReport, Share, encode_dataset
from mgd3_fast.modes import (
    Discovery,
    ModeSet,
    check_ipc,
    choose_discovery,
    classes_without_modes,
    discover_modes,
    modes_key,
)
from mgd3_fast.pictures import MOST_CLASSES, check_drawable, plot_modes
from mgd3_fast.progress import SILENT
from mgd3_fast.sources import Sources, open_sources
from mgd3_fast.timings import Timings
from mgd3_fast.writers import MODES, WORK, check_ours, check_writable

if TYPE_CHECKING:
    from mgd3_fast.config import DiscoverConfig, EncodeConfig, PlotConfig
    from mgd3_fast.datasets import Dataset
    from mgd3_fast.plan import Plan
    from mgd3_fast.progress import Progress
    from mgd3_fast.writers import RunFolder


KEPT_MODES = "modes"


def encode(
    config: EncodeConfig, progress: Progress = SILENT, shard: tuple[int, int] = (1, 1)
) -> tuple[EncodeReport, Sources]:
    """Bring the latents of a dataset into the store; classes that are there are not encoded again.

    Latents that are there are compared with their checksums, and damaged ones made anew.

    Args:
        config: Dataset, generator, device.
        progress: Receives the bar and notes.
        shard: (I, N): the I-th of N parts of the classes, or of the shards of mixed classes.

    Returns:
        What was done, and the opened sources.

    Raises:
        UserError: If something named does not exist, an image is damaged, or the disk has no room.
    """
    part, parts = shard
    share = Share(part, parts) if parts > 1 else None
    sources = open_sources(config, progress, share)
    report = _encode(sources, sources.dataset, config.on_bad_image, progress, check=True, share=share)
    opening = sources.encoded
    report = replace(
        report,
        images=report.images + opening.images,
        reused=max(0, report.reused - opening.images),
        seconds=report.seconds + opening.seconds,
        bytes_written=report.bytes_written + opening.bytes_written,
    )
    return report, sources


def discover(
    config: DiscoverConfig, progress: Progress = SILENT, *, sources: Sources | None = None
) -> tuple[Path, ModeSet]:
    """Find the modes of a dataset, encoding what is not encoded yet, and write `OUT/modes.safetensors`.

    Args:
        config: Dataset, generator, ipc, method, output folder.
        progress: Receives bars and notes.
        sources: What `open_sources(config)` gave, if it is open already.

    Returns:
        The file and the modes.

    Raises:
        UserError: If the folder holds something else, or as `encode` does.
    """
    sources = sources or open_sources(config, progress)
    check_ipc(sources.dataset.counts, config.ipc)
    discovery_of(config, sources)
    out = Path(config.out)
    check_ours(out)
    target, work = out / MODES, out / WORK
    if target.exists():
        return target, _load_modes(target, sources, config)
    check_writable(out)
    modes = _discover(sources, config, sources.dataset, work, progress, Timings())
    modes.save(work / MODES)
    (work / MODES).replace(target)
    if not (work / "run.json").exists():
        shutil.rmtree(work, ignore_errors=True)
    return target, modes


def discover_and_plot(
    config: DiscoverConfig, pictured: PlotConfig, folder: Path, progress: Progress = SILENT
) -> tuple[Path, ModeSet, list[Path]]:
    """Find the modes of a dataset as `discover` does, and draw those of some classes.

    Args:
        config: As for `discover`.
        pictured: Which classes, in which projection.
        folder: Receives the pictures.
        progress: Receives bars and notes.

    Returns:
        The file of modes, the modes, and the pictures.

    Raises:
        UserError: As `discover`, for classes that are not opened, and without matplotlib; all of it before
            any work starts.
        OSError: The folder cannot be written.
    """
    check_drawable(pictured.projection)
    sources = open_sources(config, progress)
    labels = [cls.label for cls in sources.dataset.classes[:MOST_CLASSES]]
    drawn = sources.dataset.subset(pictured.plot_classes or labels)
    check_writable(folder)
    path, modes = discover(config, progress, sources=sources)
    _encode(sources, drawn, config.on_bad_image, progress)  # modes may be there while latents are gone
    pictures = plot_modes(
        drawn,
        sources.store,
        modes,
        folder,
        resolution=sources.generator.resolution,
        projection=pictured.projection,
        progress=progress,
    )
    return path, modes, pictures


def discovery_of(config: DiscoverConfig, sources: Sources) -> Discovery:
    """Decide how modes are found; the given ones are `modes` of a distill configuration, or in its `out`."""
    given = Path(getattr(config, "modes", None) or Path(config.out) / MODES)
    return choose_discovery(config, sources.device, given)


def prepare_latents(
    plan: Plan, run: RunFolder, class_indices: Iterable[int], progress: Progress, timings: Timings
) -> list[dict[str, str]]:
    """Encode what the modes of some classes of a run still lack; writes to the cache only.

    Args:
        plan: The run.
        run: The output folder, not necessarily opened.
        class_indices: Places of the classes in the run.
        progress: Receives the bar and notes.
        timings: Receives the seconds of `encode`.

    Returns:
        Images that were left out because they cannot be read, and why.

    Raises:
        UserError: If given modes are of something else, an image is damaged, or the disk has no room.
    """
    given = _given_modes(plan, run)
    if given is not None:
        _load_modes(given, plan.sources, plan.config)
        return []
    lacking = _lacking(plan.sources, plan.config, _classes(plan, class_indices), run.work)
    if lacking is None:
        return []
    with timings.measure("encode"):
        report = _encode(plan.sources, lacking, plan.config.on_bad_image, progress)
    check_ipc(report.counts, plan.config.ipc)
    return [
        {"image": f"{bad.class_name}/{bad.image_name}", "reason": bad.reason} for bad in report.bad_images
    ]


def modes_of(
    plan: Plan, run: RunFolder, class_indices: Iterable[int], progress: Progress, timings: Timings
) -> ModeSet:
    """Load, take up or find the modes of some classes of a run.

    Args:
        plan: The run.
        run: The output folder, opened; keeps the modes of single classes for later calls and other shards.
        class_indices: Places of the classes in the run.
        progress: Receives bars and notes.
        timings: Receives the seconds of `encode` and `discover`.

    Returns:
        The modes of at least these classes.

    Raises:
        UserError: As `prepare_latents`.
    """
    given = _given_modes(plan, run)
    if given is not None:
        return _load_modes(given, plan.sources, plan.config)
    return _discover(plan.sources, plan.config, _classes(plan, class_indices), run.work, progress, timings)


def _given_modes(plan: Plan, run: RunFolder) -> Path | None:
    if plan.config.modes is not None:
        return Path(plan.config.modes)
    return run.out / MODES if (run.out / MODES).exists() else None


def _classes(plan: Plan, class_indices: Iterable[int]) -> Dataset:
    dataset = plan.sources.dataset
    return dataset.subset([dataset.classes[index].label for index in class_indices])


def _lacking(sources: Sources, config: DiscoverConfig, dataset: Dataset, work: Path) -> Dataset | None:
    """Return the classes whose modes are not kept in the working state, or None."""
    kept = work / KEPT_MODES
    labels = classes_without_modes(dataset, sources.store, discovery_of(config, sources), kept)
    return dataset.subset(labels) if labels else None


def _encode(
    sources: Sources,
    dataset: Dataset,
    on_bad_image: str,
    progress: Progress,
    *,
    check: bool = False,
    share: Share | None = None,
) -> EncodeReport:
    report = encode_dataset(
        dataset,
        sources.generator.autoencoder,
        sources.store,
        device=sources.device,
        on_bad_image=on_bad_image,
        progress=progress,
        check=check,
        share=share,
    )
    for bad in report.bad_images:
        progress.note(f"skipped {bad.class_name}/{bad.image_name}: {bad.reason}")
    return report


def _discover(
    sources: Sources,
    config: DiscoverConfig,
    dataset: Dataset,
    work: Path,
    progress: Progress,
    timings: Timings,
) -> ModeSet:
    lacking = _lacking(sources, config, dataset, work)
    if lacking is not None:
        with timings.measure("encode"):
            _encode(sources, lacking, config.on_bad_image, progress)
    wanted = discovery_of(config, sources)
    if lacking is not None:
        progress.note(f"discover: {config.discovery}, K-means engine {wanted.runner} ({wanted.reason})")
    with timings.measure("discover"):
        return discover_modes(
            dataset,
            sources.store,
            sources.generator.latent_shape,
            wanted,
            work / KEPT_MODES,
            progress,
        )


def _load_modes(path: Path, sources: Sources, config: DiscoverConfig) -> ModeSet:
    modes = ModeSet.load(path)
    kmeans = discovery_of(config, sources).kmeans
    if modes.key == modes_key(sources.dataset, sources.store, discovery_of(config, sources)):
        return modes
    for name, got, asked in (
        ("ipc", modes.ipc, config.ipc),
        ("seed", modes.seed, config.seed),
        ("discovery", modes.method, config.discovery),
        ("kmeans", modes.kmeans, kmeans),
        ("classes", len(modes.class_names), len(sources.dataset.classes)),
    ):
        if got != asked:
            raise UserError(f"modes must be of this run, got {path}, whose {name} is {got}, not {asked}")
    raise UserError(
        f"modes must be of this run, got {path}, which was made from other images or with another autoencoder"
    )
