"""Measures of a class from distances between its images: diversity, representativeness, coverage, density.

Shape letters: n real images, m synthetic images, D features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

Points = NDArray[np.float64]


def nearest_other(points: Points) -> Points:
    """Distance `[m]` of points `[m, D]` to the nearest other one; NaN for a point that is alone.

    Diversity (MGD3, section 5.3).
    """
    if len(points) < 2:
        return np.full(len(points), np.nan)
    return _distances(points, points, 2)[:, 1]


def mean_of_nearest(points: Points, real: Points, count: int) -> Points:
    """Mean distance `[m]` of points `[m, D]` to the real images nearest to them; small is representative.

    MGD3, section 5.3, takes 50 of them; where there are fewer than `count` of the `[n, D]`, it is all.
    """
    means: Points = _distances(points, real, min(count, len(real))).mean(axis=1)
    return means


def coverage_and_density(points: Points, real: Points, neighbours: int) -> tuple[float, float]:
    """Share of real images with a synthetic one in their ball, and balls per synthetic image over k.

    Naeem et al. 2020, Eq. 5 and 6; the ball of a real image reaches its k-th nearest other real image.
    With m synthetic images coverage is bounded by how many balls m points can lie in.

    Args:
        points: `[m, D]`.
        real: `[n, D]`, n of at least 2.
        neighbours: k, of at most n - 1.

    Returns:
        Coverage in 0..1 and density, 1 where the two distributions are the same.
    """
    k = min(neighbours, len(real) - 1)
    radii = _distances(real, real, k + 1)[:, k]  # the first neighbour of a point is itself
    squares = np.square(points).sum(axis=1)[:, None] + np.square(real).sum(axis=1)[None]
    apart = np.sqrt(np.maximum(squares - 2 * points @ real.T, 0.0))  # [m, n]
    inside = apart <= radii
    return float(inside.any(axis=0).mean()), float(inside.sum() / (k * len(points)))


def cosine_scores(points: Points, real: Points) -> tuple[float, float]:
    """Diversity and representativeness by cosine, the pair of terms that MinMax trains with.

    Diversity is 1 - the largest cosine between two synthetic images; representativeness the smallest, over
    synthetic images, of the largest cosine to a real one (Gu et al. 2024, Eq. 5 and 6, as scores).

    Args:
        points: `[m, D]`.
        real: `[n, D]`.

    Returns:
        Both; diversity is NaN for a single image.
    """
    unit, unit_real = _unit(points), _unit(real)
    between = unit @ unit.T
    np.fill_diagonal(between, -np.inf)
    diversity = 1.0 - float(between.max()) if len(points) > 1 else float("nan")
    return diversity, float((unit @ unit_real.T).max(axis=1).min())


def _distances(points: Points, others: Points, count: int) -> Points:
    """Ascending distances of `[m, D]` points to the `count` nearest of the others, `[m, count]`."""
    distances: Points = NearestNeighbors(n_neighbors=count).fit(others).kneighbors(points)[0]
    return distances


def _unit(points: Points) -> Points:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    scaled: Points = points / np.where(lengths > 0, lengths, 1.0)
    return scaled
