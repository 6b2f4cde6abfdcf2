"""Modes as a command of its own, and their pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mgd3_fast.config.discover import BESIDE_THE_MODES
from mgd3_fast.modes import ModeSet, check_ipc, choose_discovery, header_of
from mgd3_fast.pictures import MOST_CLASSES, check_drawable, plot_modes
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.mode_finder import ModeFinder, modes_file
from mgd3_fast.run.run import Timings
from mgd3_fast.run.sources import Sources, open_sources
from mgd3_fast.writers import MODE_PLOTS, MODES, check_ours, check_writable

if TYPE_CHECKING:
    from mgd3_fast.config import DiscoverAndPlotConfig, DiscoverConfig


def discover(
    config: DiscoverConfig, progress: Progress = SILENT, *, sources: Sources | None = None
) -> tuple[Path, ModeSet]:
    """Find the modes of a dataset, encoding what is not encoded yet, and write them into a file.

    Args:
        config: Dataset, generator, ipc, method; output folder, which receives `modes.safetensors`, or file.
        progress: Receives bars and notes.
        sources: What `open_sources(config)` gave, if it is open already.

    Returns:
        The file, and the modes that it holds.

    Raises:
        UserError: If the configuration does not fit the dataset or the generator, an image cannot be read, or
            the file or folder holds something else.
        OSError: If the file cannot be written.
    """
    sources = sources or open_sources(config, progress)
    check_ipc(sources.dataset.counts, config.ipc)
    target, work = modes_file(config)
    # On auto, K-means is run by what made the modes that are there already.
    header = header_of(target)
    given = {"kmeans": header["kmeans"]} if header and config.kmeans == "auto" else {}
    finder = ModeFinder(
        config=config,
        sources=sources,
        discovery=choose_discovery(config, sources.device, given),
        header=given,
        progress=progress,
        timings=Timings(),
    )
    if target == Path(config.out) / MODES:
        check_ours(target.parent)
    if finder.given is None:
        check_writable(target.parent)
    modes = finder.find_modes(range(len(sources.dataset.classes)))
    if finder.given is None:
        modes.save(work / MODES)
        (work / MODES).replace(target)
        if not (work / "run.json").exists():
            shutil.rmtree(work, ignore_errors=True)
    return target, modes


def discover_and_plot(
    config: DiscoverAndPlotConfig, progress: Progress = SILENT
) -> tuple[Path, ModeSet, list[Path]]:
    """Find the modes of a dataset as `discover` does, and draw those of some classes: also the pictures.

    Raises:
        UserError: As `discover`, for classes that are not opened, and without matplotlib; all of it before
            any work starts.
        OSError: The folder cannot be written.
    """
    check_drawable(config.projection)
    folder = Path(str(config.plot))
    if str(folder) == BESIDE_THE_MODES:
        folder = modes_file(config)[0].parent / MODE_PLOTS
    sources = open_sources(config, progress)
    labels = [cls.label for cls in sources.dataset.classes[:MOST_CLASSES]]
    drawn = sources.dataset.subset(config.plot_classes or labels)
    check_writable(folder)
    path, modes = discover(config, progress, sources=sources)
    sources.encode(drawn, config.on_bad_image, progress)  # modes may be there, and latents gone
    pictures = plot_modes(
        drawn,
        sources.store,
        modes,
        folder,
        projection=config.projection,
        progress=progress,
    )
    return path, modes, pictures
