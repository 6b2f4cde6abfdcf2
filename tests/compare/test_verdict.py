"""What is said of figures."""

from __future__ import annotations

from typing import Any

import pytest

from mgd3_fast.compare.verdict import best_real, verdict


def row(
    method: str,
    accuracy: float,
    difference: tuple[float, float, float] | None = None,
    balanced: float | None = None,
) -> dict[str, Any]:
    compared = None
    if difference is not None:
        mean, *bounds = difference
        compared = {"mean": mean, "ci95": bounds if bounds[0] < bounds[1] else None}
    level = None if balanced is None else {"mean": balanced}
    return {"method": method, "accuracy": {"mean": accuracy}, "balanced": level, "difference": compared}


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (
            [row("mgd3", 24.3, (-6.5, -8.9, -4.1)), row("random", 23.8), row("kmeans-closest", 30.8)],
            "MGD3 does not beat the nearest real images"
            " (24.3 against 30.8, difference -6.5, 95% -8.9 to -4.1): ship those",
        ),
        (
            [row("mgd3", 50.0, (4.0, 1.5, 6.5)), row("random", 46.0), row("herding", 45.0)],
            "MGD3 beats random real images by 4.0"
            " (50.0 against 46.0, difference +4.0, 95% +1.5 to +6.5): ship MGD3's images",
        ),
        (
            [row("mgd3", 50.0, (4.0, -1.5, 9.5)), row("herding", 46.0)],
            "no difference between MGD3 and herded real images can be told (50.0 against 46.0,"
            " difference +4.0, 95% -1.5 to +9.5): more --repeats, or ship the real images, which need no"
            " generator",
        ),
        (
            [row("mgd3", 50.0, (4.0, 0.0, 0.0)), row("random", 46.0)],
            "no difference can be told from one repeat (50.0 against 46.0 of random real images): more"
            " --repeats",
        ),
        (
            [row("mgd3", 26.0, (4.0, 1.0, 7.0)), row("random", 22.0, balanced=12.0), row("all-real", 60.0)],
            "all methods are barely above the majority rate (26.0 against 20.0): the data is too small or"
            " the network too weak to tell them apart",
        ),
        (
            [row("mgd3", 19.0, (4.0, 1.0, 7.0), balanced=40.0), row("random", 15.0)],
            "MGD3 beats random real images by 4.0"
            " (19.0 against 15.0, difference +4.0, 95% +1.0 to +7.0): ship MGD3's images",
        ),
        ([row("random", 50.0)], "nothing can be said of MGD3: no training on MGD3's images is finished"),
        ([row("mgd3", 50.0)], "nothing can be said of MGD3: no training on chosen real images is finished"),
    ],
    ids=["worse", "better", "equal", "one repeat", "chance", "balanced", "no MGD3", "no real"],
)
def test_verdict(rows: list[dict[str, Any]], wanted: str) -> None:
    assert verdict(rows, majority=20.0, num_classes=10) == wanted


def test_of_equal_real_images_the_nearest_are_the_baseline() -> None:
    rows = [row(method, 40.0) for method in ("kmeans-closest", "herding", "random", "all-real")]
    assert best_real(rows) == "kmeans-closest"
    assert best_real([row("mgd3", 1.0)]) is None
