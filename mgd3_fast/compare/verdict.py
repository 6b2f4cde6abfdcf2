"""What a comparison comes to, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgd3_fast.config.compare import ALL_REAL
from mgd3_fast.config.methods import REAL_METHODS

LABELS = {
    "mgd3": "MGD3",
    "unguided": "the unguided generator",
    "random": "random real images",
    "herding": "herded real images",
    "kmeans-closest": "the nearest real images",
    ALL_REAL: "all real images",
}
BARELY = 0.1
"""Share of the way from the majority rate to 100% that has to be gone before figures mean anything."""


def best_real(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The method whose chosen real images have the highest mean accuracy; None where there are none.

    Of equal ones it is the last of random, herding and kmeans-closest.
    """
    real = {row["method"]: row["accuracy"]["mean"] for row in rows if row["method"] in REAL_METHODS}
    return max(real, key=lambda method: (real[method], REAL_METHODS.index(method)), default=None)


def verdict(rows: Sequence[Mapping[str, Any]], majority: float, num_classes: int) -> str:
    """Say whether MGD3 is worth its while for one number of images per class.

    Args:
        rows: Of each method its name, "accuracy" and "balanced" accuracy in percent, and "difference" from
            the best chosen real images, paired by seed: summaries with "mean" and "ci95", or None.
        majority: What always answering the largest class scores, in percent.
        num_classes: Number of classes.

    Returns:
        A sentence.
    """
    by_method = {row["method"]: row for row in rows}
    base, ours = best_real(rows), by_method.get("mgd3")
    if ours is None or base is None:
        lacking = "MGD3's images" if ours is None else "chosen real images"
        return f"nothing can be said of MGD3: no training on {lacking} is finished"
    small = [row for row in rows if row["method"] != ALL_REAL]
    if not any(_is_above_chance(row, majority, num_classes) for row in small):
        best = max(row["accuracy"]["mean"] for row in small)
        return (
            f"all methods are barely above the majority rate ({best:.1f} against {majority:.1f}): the data is"
            " too small or the network too weak to tell them apart"
        )
    difference = ours["difference"]
    means = f"{ours['accuracy']['mean']:.1f} against {by_method[base]['accuracy']['mean']:.1f}"
    if difference is None or difference["ci95"] is None:
        return f"no difference can be told from one repeat ({means} of {LABELS[base]}): more --repeats"
    low, high = difference["ci95"]
    figures = f"{means}, difference {difference['mean']:+.1f}, 95% {low:+.1f} to {high:+.1f}"
    if high < 0:
        return f"MGD3 does not beat {LABELS[base]} ({figures}): ship those"
    if low > 0:
        return f"MGD3 beats {LABELS[base]} by {difference['mean']:.1f} ({figures}): ship MGD3's images"
    return (
        f"no difference between MGD3 and {LABELS[base]} can be told ({figures}): more --repeats, or ship the"
        " real images, which need no generator"
    )


def _is_above_chance(row: Mapping[str, Any], majority: float, num_classes: int) -> bool:
    """Balanced accuracy counts too: one that has learned rare classes may name the largest less often."""
    reached = [(row["accuracy"]["mean"], majority)]
    if row["balanced"] is not None:
        reached.append((row["balanced"]["mean"], 100 / num_classes))
    return any(mean - chance >= BARELY * (100 - chance) for mean, chance in reached)
