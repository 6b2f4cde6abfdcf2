"""Accuracies of repeats summed up: mean, deviation, confidence interval, differences of paired repeats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_CONFIDENCE = 0.95
SCORES = ("best", "last")
_BALANCED = {score: f"{score}_balanced" for score in SCORES}


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


def sum_up(network: str, folder: str, ipc: int, trained: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Sum up the outcomes of one network on one folder, by seed, as a row of the result.

    The accuracies of classes, averaged over seeds, and their mean, balanced accuracy, are there where every
    training counted its classes; those of earlier versions did not.
    """
    outcomes = list(trained.values())
    row = {
        "network": network,
        "folder": folder,
        "ipc": ipc,
        "parameters": outcomes[0]["parameters"],
        "seeds": list(trained),
        **{score: summary([one[score] for one in outcomes]) for score in SCORES},
        "wall_s": [one["wall_s"] for one in outcomes],
        "cpu_s": [one["cpu_s"] for one in outcomes],
    }
    counted = [one.get("by_class", {}) for one in outcomes]
    if all(score in one for score in SCORES for one in counted):
        of_classes = {score: [_class_accuracies(one, score) for one in counted] for score in SCORES}
        for score, rows in of_classes.items():
            row[_BALANCED[score]] = summary([_mean_known(accuracies) for accuracies in rows])
        row["by_class"] = {score: _mean_by_class(rows) for score, rows in of_classes.items()}
    return row


def _class_accuracies(counted: Mapping[str, Any], score: str) -> list[float | None]:
    """Accuracy of each class in percent; None for one without test images."""
    pairs = zip(counted[score]["correct"], counted["images"], strict=True)
    return [100 * correct / images if images else None for correct, images in pairs]


def _mean_known(values: Iterable[float | None]) -> float:
    return statistics.fmean(value for value in values if value is not None)


def _mean_by_class(rows: Iterable[Sequence[float | None]]) -> list[float | None]:
    columns = zip(*rows, strict=True)
    return [None if column[0] is None else round(_mean_known(column), 4) for column in columns]


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
        found.append(named | {score: difference(row, base, score, seeds) for score in SCORES})
    return found


def difference(
    row: Mapping[str, Any], base: Mapping[str, Any], figure: str, seeds: Iterable[int]
) -> dict[str, Any]:
    """The summary of a figure of a row less that of another row, seed by seed."""
    ours, theirs = by_seed(row, figure), by_seed(base, figure)
    return summary([ours[seed] - theirs[seed] for seed in seeds])


def pool_means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average each seed's accuracy over the networks, as the cross-architecture tables do.

    Returns:
        One row per folder, network "mean", over the seeds that all networks have.
    """
    pooled = []
    for folder in dict.fromkeys(row["folder"] for row in rows):
        of_folder = [row for row in rows if row["folder"] == folder]
        ipc, seeds = of_folder[0]["ipc"], common_seeds(of_folder)
        if not seeds:
            continue
        of_scores = {}
        for figure in (*SCORES, *_BALANCED.values()):
            if all(figure in row for row in of_folder):
                values = [by_seed(row, figure) for row in of_folder]
                of_scores[figure] = summary([statistics.fmean(one[seed] for one in values) for seed in seeds])
        pooled.append({"network": "mean", "folder": folder, "ipc": ipc, "seeds": seeds, **of_scores})
    return pooled


def common_seeds(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Seeds that all rows have, so that a round that was cut off makes no mean differ from another."""
    return [seed for seed in rows[0]["seeds"] if all(seed in row["seeds"] for row in rows)] if rows else []


def by_seed(row: Mapping[str, Any], figure: str) -> dict[int, float]:
    """A figure of a row by seed."""
    return dict(zip(row["seeds"], row[figure]["values"], strict=True))


def majority(images: Mapping[str, int]) -> dict[str, Any]:
    """What always answering the largest class scores: its name, and its share of all images in percent."""
    most = max(images, key=images.__getitem__)
    return {"class": most, "accuracy": round(100 * images[most] / sum(images.values()), 4)}
