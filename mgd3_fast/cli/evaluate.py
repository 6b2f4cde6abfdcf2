"""`mgd3-fast evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.cli.table import table_lines
from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.progress import Progress

CONFIG = EvaluateConfig
GROUPS = {
    "protocol": "protocol preset networks repeats seed ipc all_real size stored_size",
    "training": "epochs lr batch_size augment crop_area mix mix_probability large_rule bn_updates tests",
    "soft labels and other protocols": "teacher teacher_network temperature patches cross_recipe",
}
EXAMPLES = {
    "mgd3-fast evaluate distilled --dataset mnist5k": "what a classifier learns from a distilled folder",
    "mgd3-fast evaluate distilled real --dataset mnist5k --repeats 5": "two of them, with an interval",
    "mgd3-fast evaluate in1k-10 --dataset imagenet1k --protocol soft --teacher resnet18.pth": "as RDED does",
}


def run(config: EvaluateConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Train classifiers on distilled folders and test them."""
    with loading():
        from mgd3_fast.evaluate import evaluate_folders

    result = evaluate_folders(config, progress)
    return result, _report(result, Path(config.out))


def _report(result: dict[str, Any], out: Path) -> str:
    """A table of accuracies, one of differences, and where everything is."""
    dataset = result["dataset"]
    uneven = len(set(dataset["images_by_class"].values())) > 1
    lines = [
        f"protocol {result['protocol']}, preset {result['preset']}; {dataset['name']} ({dataset['split']}):"
        f" {dataset['images']:,} images of {dataset['classes']:,} classes; {result['repeats']}",
        *_table("network", [(row["folder"], row) for row in result["rows"]], balanced=uneven),
    ]
    compared = [(f"{one['folder']} - {one['minus']}", one) for one in result["differences"]]
    if compared:
        lines += ["", *_table("difference", compared)]
    always = dataset["majority"]
    lines.append(f"always answering {always['class']}, the largest class, scores {always['accuracy']:.1f}%")
    return "\n".join([*lines, f"every setting and repeat: {out / 'evaluation.json'}"])


def _table(title: str, rows: list[tuple[str, dict[str, Any]]], *, balanced: bool = False) -> list[str]:
    cells = [[title, "folder", "best, mean (std)", "95% interval", "last, mean (std)"]]
    cells[0] += ["balanced: best", "last"] if balanced else []
    for folder, row in rows:
        best = row["best"]
        interval = "one repeat" if best["ci95"] is None else "{:.2f} to {:.2f}".format(*best["ci95"])
        cells.append([row["network"], folder, _mean(best), interval, _mean(row["last"])])
        if balanced:
            cells[-1] += [_mean(row.get(f"{score}_balanced")) for score in ("best", "last")]
    return table_lines(cells)


def _mean(summary: dict[str, Any] | None) -> str:
    return "-" if summary is None else f"{summary['mean']:.2f} ({summary['std']:.2f})"
