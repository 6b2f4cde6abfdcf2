"""`mgd3-fast metrics`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.metrics import MetricsConfig

if TYPE_CHECKING:
    from mgd3_fast.metrics.measuring import Measured


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folders", nargs="+", metavar="DIR", help="distilled folders")
    add_options(parser, MetricsConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and report."""
    config = config_from(arguments, MetricsConfig)
    with loading():
        from mgd3_fast.metrics.measuring import measure
        from mgd3_fast.pictures.style import check_matplotlib
        from mgd3_fast.writers import check_writable

    if config.plot == "on":
        check_matplotlib()
    if config.out is not None:
        check_writable(Path(config.out))
    measured = measure(config, progress_from(arguments))
    written = []
    if config.out is not None:
        written.append(measured.save(Path(config.out)))
    if config.plot == "on" and config.out is not None:
        from mgd3_fast.metrics.plots import draw

        written += draw(measured, Path(config.out))
    if arguments.json:
        print(json.dumps(measured.to_json() | {"files": [str(path) for path in written]}))
    elif not arguments.quiet:
        print("\n".join([*_table(measured), *(f"written: {path}" for path in written)]))
    return 0


def _table(measured: Measured) -> list[str]:
    """Scores of every folder, means over classes, a folder per column."""
    rows = [["", *(folder.name for folder in measured.folders)]]
    for score in measured.folders[0].mean:
        rows.append([score.replace("_", " "), *(_number(one.mean[score]) for one in measured.folders)])
    rows.append(["Fréchet distance", *(_number(folder.frechet) for folder in measured.folders)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in padded]


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
