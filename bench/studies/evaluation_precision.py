"""What `evaluate --precision bf16` costs in accuracy: mnist5k, demo model, hard protocol, paired seeds.

    python -m bench.studies.evaluation_precision \
        --work DIR --out bench/results/evaluation/precision-mnist5k.json

Each seed is that of the distilled images and of the classifier, which is trained once in float32 and once
under bfloat16 autocast: the same weights, order and augmentation to start from. DIR is taken up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "bf16")


def run_seed(seed: int, ipc: int, work: Path) -> dict[str, dict[str, Any]]:
    """Rows of `evaluate`, by precision, of one distilled set."""
    from mgd3_fast import DistillConfig, distill
    from mgd3_fast.evaluate import EvaluateConfig, evaluate_folders

    images = work / "images" / str(seed)
    distill(DistillConfig(dataset="mnist5k", ipc=ipc, seed=seed, out=images))
    rows = {}
    for precision in PRECISIONS:
        config = EvaluateConfig(
            folders=(images,),
            dataset="mnist5k",
            seed=seed,
            repeats=1,
            precision=precision,
            out=work / "scores" / precision / str(seed),
        )
        rows[precision] = evaluate_folders(config)["rows"][0]
        print(f"seed {seed}, {precision}: {rows[precision]['last']['mean']:.1f}%", flush=True)
    return rows


def summarise(found: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracies and processor seconds of each precision, and the paired differences, bf16 less fp32."""
    from mgd3_fast.evaluate.results import SCORES, summary

    values = {p: {s: [rows[p][s]["mean"] for rows in found] for s in SCORES} for p in PRECISIONS}
    return {
        **{
            precision: {score: summary(values[precision][score]) for score in SCORES}
            | {"cpu_s": [rows[precision]["cpu_s"][0] for rows in found]}
            for precision in PRECISIONS
        },
        "difference": {
            score: summary([b - a for a, b in zip(*(values[p][score] for p in PRECISIONS), strict=True)])
            for score in SCORES
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of images and scores; taken up")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--seeds", type=int, default=5, help="number of them, from 0")
    parser.add_argument("--ipc", type=int, default=10, help="images of each class")
    args = parser.parse_args()
    import torch

    from bench.machine import describe_machine

    torch.set_num_threads(1)
    machine = describe_machine()
    found = [run_seed(seed, args.ipc, args.work) for seed in range(args.seeds)]
    content = {
        "command": f"python -m bench.studies.evaluation_precision --seeds {args.seeds} --ipc {args.ipc}",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "network": found[0]["fp32"]["network"],
        "protocol": "hard, preset mnist5k",
        **summarise(found),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["difference"], indent=1))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    sys.exit(main())
