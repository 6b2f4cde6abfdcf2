"""What a precision costs in accuracy: mnist5k by the demo model, the same seeds in float32, bf16 and fp8.

    python -m bench.studies.precision_quality --work DIR --out bench/results/precision/mnist5k.json

A seed is that of the modes, of every image and of the classifier trained on them (the hard protocol's small
preset), so that precisions are compared seed by seed. 8-bit products are torch's own on the CPU, which the
command line refuses because they are slow. DIR keeps what is done: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "bf16", "fp8")
SEEDS = range(5)


def interval(differences: Sequence[float]) -> list[float]:
    """Bounds of the mean with 95% confidence, by Student's t over the pairs."""
    from scipy.stats import t

    n = len(differences)
    half = t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    mean = statistics.fmean(differences)
    return [round(float(mean - half), 2), round(float(mean + half), 2)]


def summarise(accuracies: dict[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A row for each precision, with its paired difference from float32."""
    base = accuracies["fp32"]
    rows = []
    for precision, found in accuracies.items():
        differences = [value - other for value, other in zip(found, base, strict=True)]
        rows.append(
            {
                "precision": precision,
                "accuracy": [round(value, 2) for value in found],
                "mean": round(statistics.fmean(found), 2),
                "std": round(statistics.stdev(found), 2),
                "difference": round(statistics.fmean(differences), 2),
                "interval_95": None if precision == "fp32" else interval(differences),
            }
        )
    return rows


def measure(work: Path, ipc: int) -> list[dict[str, Any]]:
    """Distil and score every precision at every seed."""
    from bench.studies.ablation_settings import Cell
    from bench.studies.ablations import run_cell, scores_of

    cells = {precision: Cell({"precision": precision}, ipc, "test", base={}) for precision in PRECISIONS}
    for seed in SEEDS:
        for cell in cells.values():
            run_cell(cell, seed, work)
    found = {precision: scores_of(cell, work) for precision, cell in cells.items()}
    return summarise(
        {precision: [scores[seed]["last"] for seed in SEEDS] for precision, scores in found.items()}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of images and scores; taken up")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--ipc", type=int, nargs="+", default=[10], help="images of a class")
    args = parser.parse_args()

    import torch

    from mgd3_fast.run import sources
    from mgd3_fast.versions import versions

    torch.set_num_threads(1)
    sources.resolve_precision = lambda name, device: name
    tables = {f"IPC {ipc}": measure(args.work, ipc) for ipc in args.ipc}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    content = {
        "command": f"python -m bench.studies.precision_quality --ipc {shlex.join(map(str, args.ipc))}",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "device": "cpu, one thread",
        "versions": versions(),
        "tables": tables,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    for title, rows in tables.items():
        print(title)
        for row in rows:
            print("  {precision}: {mean} +- {std}%, {difference:+} {interval_95}".format(**row))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    main()
