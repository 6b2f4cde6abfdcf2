"""`mgd3-fast discover`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config import DiscoverConfig, PlotConfig
from mgd3_fast.errors import UserError

if TYPE_CHECKING:
    from mgd3_fast.modes import ModeSet


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, DiscoverConfig, flags={"discovery": "--method"})
    parser.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="PATH",
        help="draw a map of each class with its modes, and the images nearest to them, into this folder"
        " (without PATH: mode-plots beside the modes); needs the extra plot",
    )
    add_options(parser, PlotConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find modes, draw them if asked to, and report."""
    config, pictured = config_from(arguments, DiscoverConfig), config_from(arguments, PlotConfig)
    if arguments.plot is None and pictured != PlotConfig():
        raise UserError("projection and plot_classes must come with plot, got no plot")
    with loading():
        from mgd3_fast.run.discovery import discover, discover_and_plot
        from mgd3_fast.writers import MODE_PLOTS

    progress = progress_from(arguments)
    pictures: list[Path] = []
    if arguments.plot is None:
        path, modes = discover(config, progress)
    else:
        folder = Path(arguments.plot or Path(config.out) / MODE_PLOTS)
        path, modes, pictures = discover_and_plot(config, pictured, folder, progress)
    if arguments.json:
        print(json.dumps(_summary(path, modes, pictures)))
    elif not arguments.quiet:
        print(f"{modes.ipc:,} modes for each of {len(modes.class_names):,} classes in {path}")
        if pictures:
            print(f"{len(pictures):,} pictures in {pictures[0].parent}")
    return 0


def _summary(path: Path, modes: ModeSet, pictures: list[Path]) -> dict[str, object]:
    return {
        "file": str(path),
        "classes": len(modes.class_names),
        "ipc": modes.ipc,
        "method": modes.method,
        "kmeans": modes.kmeans,
        "seed": modes.seed,
        "key": modes.key,
        "pictures": [str(picture) for picture in pictures],
    }
