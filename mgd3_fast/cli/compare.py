"""`mgd3-fast compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.cli.table import table_lines
from mgd3_fast.config.compare import CompareConfig
from mgd3_fast.progress import Progress

CONFIG = CompareConfig
EXAMPLES = {
    "mgd3-fast compare photos --generator my-generator --ipc 1,10 --budget 1h": "is it worth it for yours",
    "mgd3-fast compare mnist5k --ipc 10 --budget 20m": "the same for the demo",
}


def run(config: CompareConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Compare MGD3 with real images, and say whether it is worth it."""
    with loading():
        from mgd3_fast.compare import compare_methods

    result = compare_methods(config, progress)
    return result, _report(result, Path(config.out))


def _report(result: Mapping[str, Any], out: Path) -> str:
    """A table and a verdict for each number of images per class, and what is not in them."""
    left_out = [f"not done: {why}" for why in result["left_out"]]
    if not result["tables"]:
        return "\n".join([*left_out, "no training is finished yet"])
    dataset = result["dataset"]
    lines = [
        f"{dataset['name']} ({dataset['split']}): {dataset['images']:,} images of {dataset['classes']:,}"
        f" classes; {', '.join(result['networks'])}, images of {result['side']} px, {result['repeats']}"
    ]
    uneven = len(set(dataset["images_by_class"].values())) > 1
    for table in result["tables"]:
        lines += ["", *_table(table, uneven), table["verdict"]]
    always = dataset["majority"]
    lines += ["", f"always answering {always['class']} scores {always['accuracy']:.1f}%", *left_out]
    return "\n".join([*lines, f"every setting and repeat: {out / 'compare.json'}, {out / 'evaluation.json'}"])


def _table(table: Mapping[str, Any], uneven: bool) -> list[str]:
    heading = [f"{table['ipc']} per class", "repeats", "accuracy, last epoch (95%)"]
    heading += ["balanced"] if uneven else []
    cells = [[*heading, f"minus {table['baseline'] or 'real images'} (95%)", "made, s", "training, s"]]
    for row in table["rows"]:
        made = "-" if row["made_s"] is None else f"{row['made_s']:.0f}"
        line = [row["method"], str(len(row["seeds"])), _figure(row["accuracy"], "")]
        line += ["-" if row["balanced"] is None else f"{row['balanced']['mean']:.1f}"] if uneven else []
        cells.append([*line, _figure(row["difference"], "+"), made, f"{row['training_s']:.1f}"])
    return table_lines(cells)


def _figure(summary: Mapping[str, Any] | None, sign: str) -> str:
    """A mean with its interval, where it has one."""
    if summary is None:
        return "-"
    bounds = summary["ci95"]
    interval = f" ({bounds[0]:{sign}.1f} to {bounds[1]:{sign}.1f})" if bounds else ""
    return f"{summary['mean']:{sign}.1f}{interval}"
