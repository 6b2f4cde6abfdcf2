"""`mgd3-fast metrics`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.cli.process import loading
from mgd3_fast.cli.table import table_lines
from mgd3_fast.config.metrics import MetricsConfig
from mgd3_fast.progress import Progress

if TYPE_CHECKING:
    from mgd3_fast.metrics.measuring import Measured

CONFIG = MetricsConfig
EXAMPLES = {
    "mgd3-fast metrics distilled --dataset mnist5k": "one folder beside the real images",
    "mgd3-fast metrics distilled real --dataset mnist5k --plot on --out measured": "two, with pictures",
}


def run(config: MetricsConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure distilled folders, and write and draw what is found if asked to."""
    with loading():
        from mgd3_fast.metrics.measuring import RESULT, measure
        from mgd3_fast.pictures.style import check_matplotlib
        from mgd3_fast.storage.json_results import result_file
        from mgd3_fast.writers import check_writable

    if config.plot == "on":
        check_matplotlib()
    target = None if config.out is None else result_file(config.out, RESULT)
    if target is not None:
        check_writable(target.parent)
    measured = measure(config, progress)
    written: list[Path] = []
    if target is not None:
        written.append(measured.save(target))
    if config.plot == "on" and target is not None:
        from mgd3_fast.metrics.plots import draw

        written += draw(measured, target.parent)
    result = measured.to_json() | {"files": [str(path) for path in written]}
    return result, "\n".join([*_table(measured), *(f"written: {path}" for path in written)])


def _table(measured: Measured) -> list[str]:
    """Scores of every folder, means over classes, a folder per column."""
    folders = measured.folders
    rows = [["", *(folder.name for folder in folders)]]
    for score in folders[0].mean:
        rows.append([score.replace("_", " "), *(_number(folder.mean[score]) for folder in folders)])
    rows.append(["Fréchet distance", *(_number(folder.frechet) for folder in folders)])
    return table_lines(rows)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
