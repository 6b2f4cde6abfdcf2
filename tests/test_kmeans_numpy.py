"""K-means in NumPy gives the bits of scikit-learn's on one thread.

Shape letters: n samples, K clusters, D features.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from mgd3_fast.modes.kmeans_numpy import Floats, kmeans_like_sklearn
from mgd3_fast.modes.kmeans_runners import MOST_ITERATIONS, TOLERANCE, SklearnKMeans
from mgd3_fast.modes.threads import one_thread

SHAPES = ((10, 2, 3), (40, 5, 39), (257, 64, 1), (300, 256, 10), (300, 256, 50), (150, 1024, 20))


def groups(n: int, width: int, seed: int) -> Floats:
    """Samples [n, D] around 12 centres, away from zero, as close as to make Lloyd's iterations many."""
    draws = np.random.default_rng(seed)
    centers = draws.standard_normal((12, width))
    samples = centers[draws.integers(0, 12, n)] + draws.standard_normal((n, width)) + 3
    return samples.astype(np.float32)


def check_same_bits(samples: Floats, k: int, seed: int, most_iterations: int, tolerance: float) -> int:
    """Compare with scikit-learn; returns its iterations."""
    with one_thread():
        wanted = KMeans(k, random_state=seed, n_init="auto", max_iter=most_iterations, tol=tolerance)
        wanted.fit(samples)
        found = kmeans_like_sklearn(samples, k, seed, most_iterations=most_iterations, tolerance=tolerance)
    assert found is not None
    np.testing.assert_array_equal(found[0], wanted.cluster_centers_)
    np.testing.assert_array_equal(found[1], wanted.labels_)
    return int(wanted.n_iter_)


@pytest.mark.parametrize(("n", "width", "k"), SHAPES)
@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_same_bits(n: int, width: int, k: int, seed: int) -> None:
    before = (samples := groups(n, width, seed)).copy()
    check_same_bits(samples, k, seed, MOST_ITERATIONS, TOLERANCE)
    np.testing.assert_array_equal(samples, before)


def test_same_bits_wherever_it_stops() -> None:
    """At equal labels, at a small movement, and where iterations run out."""
    samples = groups(200, 16, 0)
    until_equal = check_same_bits(samples, 8, 0, MOST_ITERATIONS, 0.0)
    assert check_same_bits(samples, 8, 0, MOST_ITERATIONS, 0.05) < until_equal
    assert check_same_bits(samples, 8, 0, 3, 0.0) == 3 < until_equal


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("width", [1, 4])
def test_what_is_left_to_scikit_learn(width: int) -> None:
    """Clusters without samples, and a single feature."""
    samples = np.repeat(groups(3, width, 0), 4, axis=0)
    assert kmeans_like_sklearn(samples, 5, 0, most_iterations=10, tolerance=0.0) is None
    clusters = SklearnKMeans().cluster(torch.from_numpy(samples), (0, len(samples)), 5, 0)
    with one_thread():
        wanted = KMeans(5, random_state=0, n_init="auto").fit(samples)
    np.testing.assert_array_equal(clusters.centers[0].numpy(), wanted.cluster_centers_)
    np.testing.assert_array_equal(clusters.labels.numpy(), wanted.labels_)
