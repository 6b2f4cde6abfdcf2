"""The paper's ablations on real images: mnist5k, the demo model, the hard protocol's small preset.

    python bench/ablations.py run --work DIR                  # resumable; --part 1/2 and 2/2 side by side
    python bench/ablations.py table --work DIR --out bench/results/ablations/mnist5k.json

A cell is one setting and one seed: the seed of the modes, of every image, and of the classifier that is
trained on them. Settings that tune something are distilled from four fifths of the training images and scored
on the rest; only the methods, at the defaults, are scored on the test images. Every cell runs on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SEEDS = range(5)
T_STOPS = range(0, 51, 5)
MODE_SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CFG_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
DISCOVERIES = ("random", "dbscan", "spectral", "kmeans-closest", "kmeans", "kmeans-pooled", "gmm")
METHODS: dict[str, dict[str, Any]] = {
    "random real images": {"method": "random"},
    "herding": {"method": "herding"},
    "K-means, nearest real images": {"method": "kmeans-closest"},
    "unguided (DiT)": {"method": "unguided"},
    "start at the noised mode (D4M)": {"method": "d4m"},
    "MGD3, never stopped": {"t_stop": 0},
    "MGD3": {},
}


@dataclass(frozen=True)
class Cell:
    """One setting: what `distill` is asked beyond dataset, seed and folder."""

    options: dict[str, Any] = field(hash=False)
    ipc: int = 10
    tuned_on: str = "val"

    @property
    def name(self) -> str:
        text = json.dumps([self.options, self.ipc, self.tuned_on], sort_keys=True)
        words = "-".join(f"{key}-{value}" for key, value in sorted(self.options.items())) or "default"
        return f"{words}-ipc{self.ipc}-{self.tuned_on}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def tables() -> dict[str, dict[str, Cell]]:
    """Every table: its rows' labels and cells. Tables share cells of equal settings."""
    found: dict[str, dict[str, Cell]] = {}
    for ipc in (10, 1, 50):
        found[f"methods, IPC {ipc}"] = {name: Cell(o, ipc, "test") for name, o in METHODS.items()}
    found["t_stop"] = {str(stop): Cell({"t_stop": stop} if stop != 25 else {}) for stop in T_STOPS}
    found["mode scale"] = {
        f"{scale:g}": Cell({"mode_scale": scale} if scale != 0.1 else {}) for scale in MODE_SCALES
    }
    found["discovery"] = {name: Cell({"discovery": name} if name != "kmeans" else {}) for name in DISCOVERIES}
    found["sampler"] = {"ddpm": Cell({}), "ddim": Cell({"sampler": "ddim"})}
    found["guidance form, equal scale"] = {
        "posterior": Cell({}),
        **{form: Cell({"guidance_form": form}) for form in ("epsilon", "x0")},
    }
    found["guidance form, equal strength"] = {
        "posterior": Cell({}),
        **{
            f"{form}, scale {scale:g}": Cell({"guidance_form": form, "mode_scale": scale})
            for form, scale in equal_strengths().items()
        },
    }
    found["CFG scale"] = {
        f"{scale:g}": Cell({"cfg_scale": scale} if scale != 2.0 else {}) for scale in CFG_SCALES
    }
    return found


def equal_strengths() -> dict[str, float]:
    """Scale of each form at which the guided steps push x_(i-1) as far in sum as `posterior` does at 0.1.

    Per unit of m - x0 a step adds scale * sigma (posterior; sigma half-way between its bounds) or the mean's
    coefficient of x0 times the form's shift of x0.
    """
    import torch

    from mgd3_engine import ModeGuidance, NoiseSchedule, step_table
    from mgd3_kernels import Coefficient

    respaced = NoiseSchedule.linear().respaced(50)

    def push(form: str) -> float:
        guidance = ModeGuidance(scale=1.0, t_stop=25, form=form)
        table = step_table(respaced, method="ddpm", guidance=guidance)[26:].double()
        low, high = table[:, Coefficient.LOG_VAR_MIN], table[:, Coefficient.LOG_VAR_MAX]
        posterior = table[:, Coefficient.PUSH] * torch.exp(0.25 * (low + high))
        shifted = table[:, Coefficient.NEXT_FROM_X0] * table[:, Coefficient.X0_SHIFT]
        return float((posterior + shifted).sum())

    return {form: round(0.1 * push("posterior") / push(form), 4) for form in ("epsilon", "x0")}


def run_cell(cell: Cell, seed: int, work: Path) -> None:
    """Distil and score; both take up what an earlier call finished."""
    from mgd3_fast import DistillConfig, distill
    from mgd3_fast.evaluate import EvaluateConfig, evaluate

    name = f"{cell.name}/{seed}"
    if (work / "scores" / name / "evaluation.json").exists():
        return
    distill(
        DistillConfig(
            dataset="mnist5k",
            ipc=cell.ipc,
            seed=seed,
            split="train" if cell.tuned_on == "test" else "fit",
            out=work / "images" / name,
            **cell.options,
        )
    )
    result = evaluate(
        EvaluateConfig(
            folders=(work / "images" / name,),
            dataset="mnist5k",
            eval_split=cell.tuned_on,
            seed=seed,
            repeats=1,
            out=work / "scores" / name,
        )
    )
    print(f"{name}: {result['rows'][0]['last']['mean']:.1f}%", flush=True)


def run(work: Path, part: int, parts: int, seeds: range) -> None:
    import torch

    torch.set_num_threads(1)
    cells = {cell.name: cell for rows in tables().values() for cell in rows.values()}
    # Seed by seed: a run cut short has every setting at the seeds that it reached.
    jobs = [(cell, seed) for seed in seeds for cell in cells.values()]
    for cell, seed in jobs[part - 1 :: parts]:
        run_cell(cell, seed, work)


def scores_of(cell: Cell, work: Path) -> dict[str, Any]:
    """Accuracies by seed, in percent: after the last epoch, and of the best epoch tested."""
    found: dict[str, Any] = {"last": {}, "best": {}}
    for seed in SEEDS:
        file = work / "scores" / cell.name / str(seed) / "evaluation.json"
        if file.exists():
            row = json.loads(file.read_text())["rows"][0]
            for score in found:
                found[score][seed] = row[score]["mean"]
    return found


def summarise(work: Path) -> dict[str, Any]:
    """Every table: mean, standard deviation and the difference from the default, seed by seed."""
    summary: dict[str, Any] = {}
    for title, rows in tables().items():
        reference = next(iter(rows)) if title.startswith("methods") else None
        base = scores_of(rows[reference] if reference else Cell({}), work)["last"]
        summary[title] = {"compared_with": reference or "the defaults", "rows": []}
        for label, cell in rows.items():
            scores = scores_of(cell, work)
            values = list(scores["last"].values())
            if not values:
                continue
            paired = [value - base[seed] for seed, value in scores["last"].items() if seed in base]
            summary[title]["rows"].append(
                {
                    "label": label,
                    "options": cell.options,
                    "ipc": cell.ipc,
                    "scored_on": cell.tuned_on,
                    "seeds": list(scores["last"]),
                    "last": values,
                    "best": list(scores["best"].values()),
                    "mean": round(statistics.fmean(values), 2),
                    "std": round(statistics.stdev(values), 2) if len(values) > 1 else None,
                    "difference": round(statistics.fmean(paired), 2) if paired else None,
                    "difference_std": round(statistics.stdev(paired), 2) if len(paired) > 1 else None,
                }
            )
    return summary


def markdown(summary: dict[str, Any]) -> str:
    lines: list[str] = []
    for title, table in summary.items():
        split = table["rows"][0]["scored_on"] if table["rows"] else "-"
        lines += [
            f"### {title[0].upper()}{title[1:]}",
            "",
            f"Scored on the {'test' if split == 'test' else 'held-out'} images; difference from"
            f" {table['compared_with']}, seed by seed, with its standard error.",
            "",
            "| | accuracy, % | difference | seeds |",
            "| --- | --- | --- | --- |",
        ]
        for row in table["rows"]:
            spread = "" if row["std"] is None else f" ± {row['std']:.1f}"
            lines.append(
                f"| {row['label']} | {row['mean']:.1f}{spread} | {_difference(row)} | {len(row['seeds'])} |"
            )
        lines.append("")
    return "\n".join(lines)


def _difference(row: dict[str, Any]) -> str:
    if row["difference"] is None or row["difference_std"] in (None, 0.0):
        return "-"
    error = row["difference_std"] / math.sqrt(len(row["seeds"]))
    return f"{row['difference']:+.1f} ± {error:.1f}"


def write_table(work: Path, out: Path) -> None:
    from mgd3_fast.versions import versions

    first = next((work / "scores").rglob("evaluation.json"))
    record = json.loads(first.read_text())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    content = {
        "command": "python bench/ablations.py run",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "device": record["device"],
        "threads": record["threads"],
        "versions": versions(),
        "network": record["rows"][0]["network"],
        "tables": summarise(work),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(markdown(content["tables"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--work", type=Path, required=True, help="folder of images and scores; taken up")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="run every N-th cell, from the I-th")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="seeds 0..N-1")
    parser.add_argument("--out", type=Path, default=Path("bench/results/ablations/mnist5k.json"))
    args = parser.parse_args()
    if args.action == "table":
        write_table(args.work, args.out)
        return 0
    part, parts = (int(number) for number in args.part.split("/"))
    run(args.work, part, parts, range(args.seeds))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    sys.exit(main())
