"""Some of many, evenly spread: what is looked at or shown where all would be too much."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from mgd3_fast.datasets.dataset import Dataset, ImageClass


def spread(count: int, most: int) -> Sequence[int]:
    """Choose at most `most` of the places 0..count-1, evenly spread."""
    if count <= most:
        return range(count)
    return [round(k * (count - 1) / max(1, most - 1)) for k in range(most)]


def some_images(dataset: Dataset, most: int) -> list[tuple[ImageClass, int]]:
    """Choose at most `most` images of a dataset, evenly spread: the class of each, and its place in it."""
    starts = [0, *accumulate(map(len, dataset.classes))]
    chosen = []
    for place in spread(len(dataset), most):
        number = bisect_right(starts, place) - 1
        chosen.append((dataset.classes[number], place - starts[number]))
    return chosen
