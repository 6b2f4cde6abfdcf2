"""`mgd3-fast evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.cli.table import table_lines
from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.progress import Progress

CONFIG = EvaluateConfig


def run(config: EvaluateConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Train classifiers on distilled folders and test them."""
    with loading():
        from mgd3_fast.evaluate import evaluate

    result = evaluate(config, progress)
    return result, _report(result, Path(config.out))


def _report(result: dict[str, Any], out: Path) -> str:
    """A table of accuracies, one of differences, and where everything is."""
    dataset = result["dataset"]
    lines = [
        f"protocol {result['protocol']}, preset {result['preset']}; {dataset['name']} ({dataset['split']}):"
        f" {dataset['images']:,} images of {dataset['classes']:,} classes; {result['repeats']}",
        *_table("network", [(row["folder"], row) for row in result["rows"]]),
    ]
    compared = [(f"{one['folder']} - {one['minus']}", one) for one in result["differences"]]
    if compared:
        lines += ["", *_table("difference", compared)]
    return "\n".join([*lines, f"every setting and repeat: {out / 'evaluation.json'}"])


def _table(title: str, rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    cells = [(title, "folder", "best, mean (std)", "95% interval", "last, mean (std)")]
    for folder, row in rows:
        best = row["best"]
        interval = "one repeat" if best["ci95"] is None else "{:.2f} to {:.2f}".format(*best["ci95"])
        cells.append((row["network"], folder, _mean(best), interval, _mean(row["last"])))
    return table_lines(cells)


def _mean(summary: dict[str, Any]) -> str:
    return f"{summary['mean']:.2f} ({summary['std']:.2f})"
