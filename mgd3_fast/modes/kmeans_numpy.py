"""scikit-learn's K-means in NumPy, to the bit: its import takes longer than to cluster ten classes.

The same random draws, the same sums in the same order as scikit-learn 1.9 on one thread. Only where two
centres are equally near within rounding may the two differ, as scikit-learn does between matrix libraries.

Shape letters: n samples, K clusters, D features, T candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def kmeans_like_sklearn(
    samples: Floats, k: int, seed: int, *, most_iterations: int, tolerance: float
) -> tuple[Floats, Labels] | None:
    """Run Lloyd's iterations from a greedy k-means++ start, with one start.

    Args:
        samples: float32 [n, D], n >= k.
        k: K.
        seed: 0..2^32-1.
        most_iterations: Lloyd's iterations at most.
        tolerance: Stop once the centres' squared movements sum up to less than this share of the mean
            variance of a feature.

    Returns:
        Centres float32 [K, D] and labels [n]; None where a cluster loses all its samples, for which
        scikit-learn has a rule of its own, and for D = 1, where NumPy adds up in another order.
    """
    if samples.shape[1] == 1:
        return None
    least_movement = np.mean(np.var(samples, axis=0)) * tolerance
    mean = samples.mean(axis=0)
    samples = samples - mean
    centers = samples[_start(samples, k, RandomState(seed))]
    labels = np.full(len(samples), -1)
    for _ in range(most_iterations):
        previous, labels = labels, _nearest(samples, centers)
        means = _means(samples, labels, k)
        if means is None:
            return None
        movements = np.sqrt(((means - centers) ** 2).sum(axis=1))
        centers = means
        if np.array_equal(labels, previous):
            break
        if (movements**2).sum() <= least_movement:
            labels = _nearest(samples, centers)
            break
    else:
        labels = _nearest(samples, centers)
    return centers + mean, labels


def _start(samples: Floats, k: int, draws: RandomState) -> list[int]:
    """Choose K samples by greedy k-means++ (Arthur and Vassilvitskii 2007), each the best of T drawn ones."""
    exact = samples.astype(np.float64)
    norms = np.einsum("ij,ij->i", exact, exact)

    def squared_distances(rows: NDArray[np.int64]) -> Floats:  # [len(rows), n]
        squared = -2 * (exact[rows] @ exact.T) + norms[rows, None] + norms
        distances: Floats = np.maximum(squared.astype(np.float32), 0)
        return distances

    weights = np.ones(len(samples), np.float32)
    chosen = [int(draws.choice(len(samples), p=weights / weights.sum()))]
    nearest = squared_distances(np.array(chosen))[0]  # [n], to the nearest chosen sample
    potential = nearest @ weights
    candidates = 2 + int(np.log(k))
    for _ in range(1, k):
        drawn = np.searchsorted(np.cumsum(nearest), draws.uniform(size=candidates) * potential)
        rows = np.minimum(drawn, len(samples) - 1)  # rounding can lead past the end
        distances = np.minimum(nearest, squared_distances(rows))  # [T, n]
        potentials = distances @ weights[:, None]  # [T, 1]
        best = int(np.argmin(potentials))
        chosen.append(int(rows[best]))
        nearest, potential = distances[best], potentials[best]
    return chosen


def _nearest(samples: Floats, centers: Floats) -> Labels:
    scores = np.einsum("ij,ij->i", centers, centers) - 2 * (samples @ centers.T)  # [n, K]
    nearest: Labels = scores.argmin(axis=1)
    return nearest


def _means(samples: Floats, labels: Labels, k: int) -> Floats | None:
    """Means of the clusters' samples; None if a cluster has none."""
    counts = np.bincount(labels, minlength=k)
    if not counts.all():
        return None
    # Along the first of two axes NumPy adds one row after another, as scikit-learn does.
    sums = np.stack([samples[labels == cluster].sum(axis=0) for cluster in range(k)])  # [K, D]
    means: Floats = sums * (np.float32(1) / counts.astype(np.float32))[:, None]
    return means
