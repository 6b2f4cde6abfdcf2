"""Every discovery method on mnist5k: inertia, evenness and time; what a classifier learns is an ablation.

    python -m bench.studies.discovery_methods --out results/discovery

Writes OUT/discovery_methods.json.

Shape letters: n images of a class, K modes, D = C*h*w.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.machine import describe_machine
from mgd3_fast.config import DiscoverConfig
from mgd3_fast.modes import METHOD_NAMES, Discovery, discover_modes
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.sources import Sources, encode, open_sources

RESULT = "discovery_methods.json"
DATASET = "mnist5k"


def measure(sources: Sources, method: str, ipc: int, seed: int) -> dict[str, Any]:
    """Find the modes of all classes and say how good and how even they are."""
    started = time.perf_counter()
    wanted = Discovery(method=method, ipc=ipc, seed=seed)
    found = discover_modes(sources.dataset, sources.store, sources.generator.latent_shape, wanted)
    seconds = time.perf_counter() - started
    inertia = []
    for position, cls in enumerate(sources.dataset.classes):
        latents = sources.store.get(cls)
        assert latents is not None
        inertia.append(mean_square(latents.flatten(1), found.modes[position].flatten(1)))
    even = [effective_modes(weights) for weights in found.weights]
    return {
        "method": method,
        "seed": seed,
        "seconds": round(seconds, 3),
        "inertia_per_image": round(statistics.fmean(inertia), 3),
        "effective_modes": round(statistics.fmean(even), 2),
        "largest_weight": round(float(found.weights.max()), 4),
    }


def mean_square(latents: Tensor, modes: Tensor) -> float:
    """Mean over images of the squared distance from the nearest mode."""
    return float(torch.cdist(latents.double(), modes.double()).min(1).values.square().mean())


def effective_modes(weights: Tensor) -> float:
    """exp of the entropy of the weights: K where all modes stand for as many images."""
    return math.exp(-sum(w * math.log(w) for w in weights.tolist() if w > 0))


def table(rows: list[dict[str, Any]], methods: list[str]) -> str:
    """One line per method, means over the seeds."""
    lines = [f"{'method':16}{'seconds':>9}{'inertia':>9}{'of kmeans':>11}{'effective':>11}"]
    inertia = {
        method: statistics.fmean(row["inertia_per_image"] for row in rows if row["method"] == method)
        for method in methods
    }
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        ratio = f"{inertia[method] / inertia['kmeans']:.3f}" if "kmeans" in inertia else "-"
        seconds = statistics.fmean(row["seconds"] for row in own)
        even = statistics.fmean(row["effective_modes"] for row in own)
        lines.append(f"{method:16}{seconds:9.2f}{inertia[method]:9.2f}{ratio:>11}{even:11.2f}")
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=list(METHOD_NAMES))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of discovery")
    parser.add_argument("--cache-dir", type=Path, help="where latents are kept; default as for mgd3-fast")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments, progress = parse(argv), Progress()
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = DiscoverConfig(
        dataset=DATASET, ipc=arguments.ipc, out=arguments.out, cache_dir=arguments.cache_dir
    )
    encode(config, progress)
    sources = open_sources(config, SILENT)
    # Once before the clock runs: a method's libraries load on its first call.
    for method in arguments.methods:
        measure(sources, method, 2, 0)
    rows = [
        measure(sources, method, arguments.ipc, seed)
        for seed in arguments.seeds
        for method in arguments.methods
    ]
    result = {
        "machine": describe_machine(),
        "dataset": DATASET,
        "images": len(sources.dataset),
        "ipc": arguments.ipc,
        "rows": rows,
    }
    (arguments.out / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(rows, arguments.methods))
    print("inertia: mean squared distance of an image's latents from the nearest mode")
    print(f"everything: {arguments.out / RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
