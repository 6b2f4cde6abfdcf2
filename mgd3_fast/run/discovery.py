"""The second stage of a run, and a command of its own: latents to modes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mgd3_fast.errors import UserError
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
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.run import Timings, left_out
from mgd3_fast.run.sources import Sources, open_sources
from mgd3_fast.writers import MODES, WORK, check_ours, check_writable

if TYPE_CHECKING:
    from mgd3_fast.config import DiscoverConfig, PlotConfig
    from mgd3_fast.datasets import Dataset

KEPT_MODES = "modes"


@dataclass(frozen=True, kw_only=True)
class ModeFinder:
    """Where the modes of a run come from: a file that is given, earlier calls, or the latents.

    Args:
        config: What was asked for.
        sources: Dataset, generator, device and latents.
        discovery: How modes are found.
        progress: Receives bars and notes.
        timings: Receives the seconds of each stage.
    """

    config: DiscoverConfig
    sources: Sources
    discovery: Discovery
    progress: Progress
    timings: Timings

    def encode(self, classes: Sequence[int]) -> list[dict[str, str]]:
        """Encode what the modes of some classes still lack; writes to the cache only.

        Args:
            classes: Places of the classes in the run.

        Returns:
            Images that were left out because they cannot be read, and why.

        Raises:
            UserError: If given modes are of something else, an image is damaged, or the disk has no room.
        """
        given = given_modes(self.config)
        if given is not None:
            self.load(given)
            return []
        lacking = self._without_modes(self._subset(classes))
        if lacking is None:
            return []
        with self.timings.measure("encode"):
            report = self.sources.encode(lacking, self.config.on_bad_image, self.progress)
        check_ipc(report.counts, self.config.ipc)
        return left_out(report.bad_images)

    def find_modes(self, classes: Sequence[int]) -> ModeSet:
        """Load, take up or find the modes of at least some classes.

        Args:
            classes: Places of the classes in the run.

        Raises:
            UserError: As `encode`.
        """
        given, wanted = given_modes(self.config), self.discovery
        if given is not None:
            return self.load(given)
        dataset = self._subset(classes)
        if self._without_modes(dataset) is not None:
            self.encode(classes)
            self.progress.note(f"discover: {wanted.method}, K-means runner {wanted.runner} ({wanted.reason})")
        with self.timings.measure("discover"):
            return discover_modes(
                dataset,
                self.sources.store,
                self.sources.generator.latent_shape,
                wanted,
                self._work,
                self.progress,
            )

    def load(self, path: Path) -> ModeSet:
        """Read modes of this very run from a file of an earlier run, or of `discover`.

        Raises:
            UserError: They were found otherwise, or in other latents; naming what differs.
        """
        modes, wanted = ModeSet.load(path), self.discovery
        dataset = self.sources.dataset
        if modes.key == modes_key(dataset, self.sources.store, wanted):
            return modes
        for name, got, asked in (
            ("ipc", modes.ipc, wanted.ipc),
            ("seed", modes.seed, wanted.seed),
            ("discovery", modes.method, wanted.method),
            ("kmeans", modes.kmeans, wanted.kmeans),
            ("classes", len(modes.class_names), len(dataset.classes)),
        ):
            if got != asked:
                raise UserError(f"modes must be of this run, got {path}, whose {name} is {got}, not {asked}")
        raise UserError(
            f"modes must be of this run, got {path}, which was made from other images or with another"
            " autoencoder"
        )

    @property
    def _work(self) -> Path:
        """Keeps the modes of single classes for later calls and other shards."""
        return Path(self.config.out) / WORK / KEPT_MODES

    def _subset(self, classes: Sequence[int]) -> Dataset:
        dataset = self.sources.dataset
        return dataset.subset([dataset.classes[index].label for index in classes])

    def _without_modes(self, dataset: Dataset) -> Dataset | None:
        """The classes whose modes are not kept, if any."""
        labels = classes_without_modes(dataset, self.sources.store, self.discovery, self._work)
        return dataset.subset(labels) if labels else None


def given_modes(config: DiscoverConfig) -> Path | None:
    """Find the file of modes that a run takes up: the named one, or the one in its output folder if any."""
    named, in_folder = getattr(config, "modes", None), Path(config.out) / MODES
    if named is not None:
        return Path(named)
    return in_folder if in_folder.exists() else None


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
    finder = ModeFinder(
        config=config,
        sources=sources,
        discovery=choose_discovery(config, sources.device, given_modes(config)),
        progress=progress,
        timings=Timings(),
    )
    out = Path(config.out)
    check_ours(out)
    target, work = out / MODES, out / WORK
    if target.exists():
        return target, finder.load(target)
    check_writable(out)
    modes = finder.find_modes(range(len(sources.dataset.classes)))
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
    sources.encode(drawn, config.on_bad_image, progress)  # modes may be there, and latents gone
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
