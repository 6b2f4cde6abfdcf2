"""The paper's ablations on real images: mnist5k, the demo model, the hard protocol's small preset.

    python -m bench.studies.ablations run --work DIR        # resumable; --part 1/2 and 2/2 side by side
    python -m bench.studies.ablations table --work DIR --out bench/results/ablations/mnist5k.json

A cell is one setting and one seed: the seed of the modes, of every image, and of the classifier that is
trained on them. Settings that tune something are distilled from four fifths of the training images and scored
on the rest; only the methods are scored on the test images. Every cell runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.studies.ablation_settings import Cell, Table, tables

DIVERGED = "diverged.json"
METRICS = ("mode_recovery", "coverage", "density")


def run_cell(cell: Cell, seed: int, work: Path, **evaluation: Any) -> None:
    """Distil, score by `evaluation` options and measure; each takes up what an earlier call finished."""
    from mgd3_fast import DistillConfig, distill
    from mgd3_fast.evaluate import EvaluateConfig, evaluate_folders
    from mgd3_fast.metrics import MetricsConfig, measure

    name = f"{cell.name}/{seed}"
    images, scores = work / "images" / name, work / "scores" / name
    split = "train" if cell.tuned_on == "test" else "fit"
    if (scores / "metrics.json").exists() or (scores / DIVERGED).exists():
        return
    try:
        distill(
            DistillConfig(dataset="mnist5k", ipc=cell.ipc, seed=seed, split=split, out=images, **cell.asked)
        )
    except ValueError as error:
        if "became NaN or infinite" not in str(error):
            raise
        scores.mkdir(parents=True)
        (scores / DIVERGED).write_text(json.dumps(str(error)))
        print(f"{name}: {error}", flush=True)
        return
    result = evaluate_folders(
        EvaluateConfig(
            folders=(images,),
            dataset="mnist5k",
            eval_split=cell.tuned_on,
            epochs=cell.epochs,
            seed=seed,
            repeats=1,
            out=scores,
            **evaluation,
        )
    )
    measure(MetricsConfig(folders=(images,), dataset="mnist5k", split=split, tsne="off")).save(scores)
    print(f"{name}: {result['rows'][0]['last']['mean']:.1f}%", flush=True)


def run(work: Path, part: int, parts: int) -> None:
    import torch

    torch.set_num_threads(1)
    jobs = {
        (seed, cell.name): cell
        for table in tables().values()
        for cell in table.rows.values()
        for seed in range(table.seeds)
    }
    # Seed by seed: a run cut short has every setting at the seeds that it reached.
    in_turn = sorted(jobs, key=lambda job: job[0])
    for seed, name in in_turn[part - 1 :: parts]:
        run_cell(jobs[seed, name], seed, work)


def scores_of(cell: Cell, work: Path) -> dict[int, dict[str, float | None]]:
    """By seed: accuracy after the last and of the best epoch, in percent, and metrics; None if diverged."""
    found: dict[int, dict[str, float | None]] = {}
    for folder in sorted((work / "scores" / cell.name).glob("[0-9]*"), key=lambda path: int(path.name)):
        if (folder / DIVERGED).exists():
            found[int(folder.name)] = dict.fromkeys(("last", "best", *METRICS))
        elif (folder / "metrics.json").exists():
            row = json.loads((folder / "evaluation.json").read_text())["rows"][0]
            means = json.loads((folder / "metrics.json").read_text())["folders"][0]["mean"]
            found[int(folder.name)] = {
                **{name: row[name]["mean"] for name in ("last", "best")},
                **{name: means[name] for name in METRICS},
            }
    return found


def summarise(table: Table, work: Path) -> dict[str, Any]:
    """Means, standard deviations over seeds, and paired differences from the table's reference."""
    base = _of(scores_of(table.reference, work), "last")
    rows = []
    for label, cell in table.rows.items():
        scores = scores_of(cell, work)
        last, best = _of(scores, "last"), _of(scores, "best")
        paired = [value - base[seed] for seed, value in last.items() if seed in base]
        rows.append(
            {
                "label": label,
                "options": cell.options,
                "ipc": cell.ipc,
                "scored_on": cell.tuned_on,
                "seeds": list(last),
                "diverged": len(scores) - len(last),
                "last": list(last.values()),
                "best": list(best.values()),
                "mean": _mean(last.values()),
                "std": _std(last.values()),
                "difference": _mean(paired),
                "difference_error": round(statistics.stdev(paired) / math.sqrt(len(paired)), 3)
                if len(paired) > 1
                else None,
                **{name: _mean(_of(scores, name).values()) for name in METRICS},
            }
        )
    return {"compared_with": table.against, "rows": rows}


def _of(scores: dict[int, dict[str, float | None]], name: str) -> dict[int, float]:
    return {seed: value for seed, found in scores.items() if (value := found[name]) is not None}


def _mean(values: Any) -> float | None:
    return round(statistics.fmean(values), 3) if values else None


def _std(values: Any) -> float | None:
    return round(statistics.stdev(values), 3) if len(values) > 1 else None


def markdown(summary: dict[str, Any]) -> str:
    """Tables as documents show them."""
    lines: list[str] = []
    for title, table in summary.items():
        split = "test" if table["rows"][0]["scored_on"] == "test" else "held-out"
        lines += [
            f"### {title}",
            "",
            f"Accuracy on the {split} images; difference from {table['compared_with']}, seed by seed.",
            "",
            "| | accuracy, % | difference | seeds | mode recovery | coverage | density |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in table["rows"]:
            metrics = " | ".join("-" if row[name] is None else f"{row[name]:.2f}" for name in METRICS)
            seeds = len(row["seeds"]) + row["diverged"]
            lines.append(f"| {row['label']} | {_accuracy(row)} | {_difference(row)} | {seeds} | {metrics} |")
        lines.append("")
    return "\n".join(lines)


def _accuracy(row: dict[str, Any]) -> str:
    diverged = f"{row['diverged']} diverged" if row["diverged"] else ""
    if row["mean"] is None:
        return diverged or "-"
    spread = "" if row["std"] is None else f" ± {row['std']:.1f}"
    return f"{row['mean']:.1f}{spread}" + (f", {diverged}" if diverged else "")


def _difference(row: dict[str, Any]) -> str:
    """Mean and standard error of the paired differences; nothing for the reference itself."""
    if not row["difference_error"]:
        return "-"
    return f"{row['difference']:+.1f} ± {row['difference_error']:.1f}"


def write_table(work: Path, out: Path) -> None:
    from mgd3_fast.versions import versions

    record = json.loads(next((work / "scores").rglob("evaluation.json")).read_text())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    content = {
        "command": "python -m bench.studies.ablations run",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "device": record["device"],
        "threads": record["threads"],
        "versions": versions(),
        "network": record["rows"][0]["network"],
        "tables": {title: summarise(table, work) for title, table in tables().items()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(markdown(content["tables"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--work", type=Path, required=True, help="folder of images and scores; taken up")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="run every N-th cell, from the I-th")
    parser.add_argument("--out", type=Path, default=Path("bench/results/ablations/mnist5k.json"))
    args = parser.parse_args()
    if args.action == "table":
        write_table(args.work, args.out)
        return 0
    part, parts = (int(number) for number in args.part.split("/"))
    run(args.work, part, parts)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    sys.exit(main())
