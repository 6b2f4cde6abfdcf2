"""`mgd3-fast discover`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mgd3_fast.cli.options import add_options, config_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config import DiscoverConfig, PlotConfig
from mgd3_fast.config.fields import check_folder
from mgd3_fast.errors import UserError
from mgd3_fast.progress import Progress


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


def run(arguments: argparse.Namespace, progress: Progress) -> tuple[dict[str, Any], str]:
    """Find modes, and draw them if asked to."""
    config, pictured = config_from(arguments, DiscoverConfig), config_from(arguments, PlotConfig)
    if arguments.plot is None and pictured != PlotConfig():
        raise UserError("projection and plot_classes must come with plot, got no plot")
    with loading():
        from mgd3_fast.run.discovery import discover, discover_and_plot
        from mgd3_fast.run.mode_finder import modes_file
        from mgd3_fast.writers import MODE_PLOTS

    pictures: list[Path] = []
    if arguments.plot is None:
        path, modes = discover(config, progress)
    else:
        folder = Path(arguments.plot or modes_file(config)[0].parent / MODE_PLOTS)
        check_folder("plot", folder)
        path, modes, pictures = discover_and_plot(config, pictured, folder, progress)
    result = {
        "file": str(path),
        "classes": len(modes.class_names),
        "ipc": modes.ipc,
        "method": modes.method,
        "kmeans": modes.kmeans,
        "seed": modes.seed,
        "key": modes.key,
        "pictures": [str(picture) for picture in pictures],
    }
    drawn = f"\n{len(pictures):,} pictures in {pictures[0].parent}" if pictures else ""
    return result, f"{modes.ipc:,} modes for each of {len(modes.class_names):,} classes in {path}{drawn}"
