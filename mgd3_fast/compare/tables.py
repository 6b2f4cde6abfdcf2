"""A comparison's trainings as one table for each number of images per class."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgd3_fast.compare.verdict import best_real, verdict
from mgd3_fast.config.compare import ALL_REAL
from mgd3_fast.evaluate.results import by_seed, common_seeds, difference, pool_means, summary
from mgd3_fast.evaluate.sets import ALL_REAL as ALL_REAL_SET
from mgd3_fast.writers import read_manifest

COMPARISON = "compare.json"
FORMAT = "mgd3-fast comparison"
FORMAT_VERSION = 1
ACCURACY, BALANCED = "last", "last_balanced"


def folder_name(method: str, ipc: int) -> str:
    """What the images of a method are called in results; of distilled ones, their folder in OUT."""
    return ALL_REAL_SET if method == ALL_REAL else f"{method}-ipc{ipc}"


def make_tables(
    out: Path, evaluation: Mapping[str, Any], methods: Sequence[str], ipcs: Sequence[int]
) -> list[dict[str, Any]]:
    """Sort the finished trainings by images per class, and judge each.

    Accuracy is that after the last epoch, which no look at the test images has chosen; of several networks,
    it is the mean of theirs, seed by seed.

    Args:
        out: Folder of the images.
        evaluation: Content of `evaluation.json`.
        methods: What is compared.
        ipcs: Images per class.

    Returns:
        For each number of images per class "ipc", "rows" by method, the "baseline" that differences are taken
        from, and the "verdict".
    """
    dataset = evaluation["dataset"]
    pooled = _pooled(evaluation["rows"])
    tables = []
    for ipc in ipcs:
        names = {method: folder_name(method, ipc) for method in methods}
        found = {method: pooled[name] for method, name in names.items() if name in pooled}
        small = [row for method, row in found.items() if method != ALL_REAL]
        seeds = common_seeds(small or list(found.values()))
        rows = [_row(out, method, row, seeds) for method, row in found.items()]
        rows = [row for row in rows if row["seeds"]]
        base = best_real(rows)
        for row in rows:
            if base is not None and row["method"] != base:
                row["difference"] = difference(found[row["method"]], found[base], ACCURACY, row["seeds"])
        judged = verdict(rows, dataset["majority"]["accuracy"], dataset["classes"])
        tables.append({"ipc": ipc, "rows": rows, "baseline": base, "verdict": judged})
    return tables


def _pooled(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The mean over networks of each set that all networks were trained on, with seconds of a repeat."""
    networks = dict.fromkeys(row["network"] for row in rows)
    by_set: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(row["folder"], []).append(row)
    whole = [row for of_set in by_set.values() if len(of_set) == len(networks) for row in of_set]
    means = pool_means(whole) if len(networks) > 1 else whole
    return {row["folder"]: {**row, "training_s": _seconds_trained(by_set[row["folder"]])} for row in means}


def _seconds_trained(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of a repeat of all networks."""
    return round(sum(statistics.fmean(row["wall_s"]) for row in rows), 2)


def _row(out: Path, method: str, row: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """What is shown of a method: its figures of some seeds, as far as it has them."""
    seeds = [seed for seed in seeds if seed in row["seeds"]]

    def figure(name: str) -> dict[str, Any] | None:
        return summary([by_seed(row, name)[seed] for seed in seeds]) if seeds and name in row else None

    return {
        "method": method,
        "folder": row["folder"],
        "ipc": row["ipc"],
        "seeds": seeds,
        "accuracy": figure(ACCURACY),
        "balanced": figure(BALANCED),
        "difference": None,
        "made_s": None if method == ALL_REAL else _seconds_made(out / row["folder"]),
        "training_s": row["training_s"],
    }


def _seconds_made(folder: Path) -> float:
    """Seconds of all sessions that made a folder's images, but for those that were cut off."""
    sessions = (read_manifest(folder) or {}).get("sessions", ())
    return float(round(sum((one["timings_s"] or {}).get("total", 0.0) for one in sessions), 2))
