"""Accuracies of repeats summed up: mean, deviation, confidence interval, differences of paired repeats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_CONFIDENCE = 0.95
SCORES = ("best", "last")


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Sum up one figure of all repeats.

    Returns:
        "values", "mean", "std" (population, which is what the authors' code prints) and "ci95": the bounds
        of Student's 95% interval of the mean, mean -+ t s / sqrt(n) with the sample's deviation s; None for
        one repeat.
    """
    count, mean = len(values), statistics.fmean(values)
    interval = None
    if count > 1:
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        quantile = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2))
        reach = quantile * statistics.stdev(values) / math.sqrt(count)
        interval = [round(mean - reach, 4), round(mean + reach, 4)]
    return {
        "values": [round(value, 4) for value in values],
        "mean": round(mean, 4),
        "std": round(statistics.pstdev(values), 4),
        "ci95": interval,
    }


def sum_up(network: str, folder: str, ipc: int, by_seed: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Sum up the outcomes of one network on one folder, by seed, as a row of the result."""
    outcomes = list(by_seed.values())
    return {
        "network": network,
        "folder": folder,
        "ipc": ipc,
        "parameters": outcomes[0]["parameters"],
        "seeds": list(by_seed),
        **{score: summary([one[score] for one in outcomes]) for score in SCORES},
        "wall_s": [one["wall_s"] for one in outcomes],
        "cpu_s": [one["cpu_s"] for one in outcomes],
    }


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare every folder with the first one, seed by seed.

    Returns:
        For each network and each further folder of as many images, the summaries of its accuracy less the
        first folder's over the seeds they share.
    """
    found = []
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        base = first.setdefault(row["network"], row)
        seeds = [seed for seed in row["seeds"] if seed in base["seeds"]]
        if base is row or row["ipc"] != base["ipc"] or not seeds:
            continue
        named = {"network": row["network"], "folder": row["folder"], "minus": base["folder"], "seeds": seeds}
        of_scores = {}
        for score in SCORES:
            ours, theirs = (_by_seed(one, score) for one in (row, base))
            of_scores[score] = summary([ours[seed] - theirs[seed] for seed in seeds])
        found.append(named | of_scores)
    return found


def pool_means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average each seed's accuracy over the networks, as the cross-architecture tables do.

    Returns:
        One row per folder, network "mean", over the seeds that all networks have.
    """
    pooled = []
    for folder in dict.fromkeys(row["folder"] for row in rows):
        of_folder = [row for row in rows if row["folder"] == folder]
        ipc, first_seeds = of_folder[0]["ipc"], of_folder[0]["seeds"]
        seeds = [seed for seed in first_seeds if all(seed in row["seeds"] for row in of_folder)]
        if not seeds:
            continue
        of_scores = {}
        for score in SCORES:
            by_seed = [_by_seed(row, score) for row in of_folder]
            of_scores[score] = summary([statistics.fmean(one[seed] for one in by_seed) for seed in seeds])
        pooled.append({"network": "mean", "folder": folder, "ipc": ipc, "seeds": seeds, **of_scores})
    return pooled


def _by_seed(row: Mapping[str, Any], score: str) -> dict[int, float]:
    return dict(zip(row["seeds"], row[score]["values"], strict=True))
