"""`mgd3-fast evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.evaluate import EvaluateConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare folders and options."""
    parser.add_argument(
        "folders", nargs="+", metavar="DIR", help="distilled folders, compared with the first"
    )
    add_options(parser, EvaluateConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and report."""
    config = config_from(arguments, EvaluateConfig)
    with loading():
        from mgd3_fast.evaluate import evaluate

    result = evaluate(config, progress_from(arguments))
    if arguments.json:
        print(json.dumps(result))
    elif not arguments.quiet:
        print(_report(result, Path(config.out)))
    return 0


def _report(result: dict[str, Any], out: Path) -> str:
    """A table of accuracies, one of differences, and where everything is."""
    dataset = result["dataset"]
    lines = [
        f"protocol {result['protocol']}, preset {result['preset']}; {dataset['name']} ({dataset['split']}):"
        f" {dataset['images']:,} images of {dataset['classes']:,} classes; {result['repeats']}",
        *_table([("network", row["network"], row["folder"], row) for row in result["rows"]]),
    ]
    compared = [
        ("difference", one["network"], f"{one['folder']} - {one['minus']}", one)
        for one in result["differences"]
    ]
    if compared:
        lines += ["", *_table(compared)]
    return "\n".join([*lines, f"every setting and repeat: {out / 'evaluation.json'}"])


def _table(rows: list[tuple[str, str, str, dict[str, Any]]]) -> list[str]:
    head = (rows[0][0], "folder", "best, mean (std)", "95% interval", "last, mean (std)")
    cells = [head]
    for _, network, folder, row in rows:
        cells.append((network, folder, _mean(row["best"]), _interval(row["best"]), _mean(row["last"])))
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _mean(summary: dict[str, Any]) -> str:
    return f"{summary['mean']:.2f} ({summary['std']:.2f})"


def _interval(summary: dict[str, Any]) -> str:
    return "one repeat" if summary["ci95"] is None else "{:.2f} to {:.2f}".format(*summary["ci95"])
