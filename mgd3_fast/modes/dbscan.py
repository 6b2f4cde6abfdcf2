"""Means of dense clusters, one of MGD3's Table 7, by scikit-learn.

Shape letters: n images of a class, K modes, D = C*h*w.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.modes.clusters import (
    ClusteringDiscovery,
    member_means,
    nearest_centers,
    nearest_samples,
    shares,
    split_clusters,
)
from mgd3_fast.modes.mode_set import Modes

MIN_SAMPLES = 3  # images of the smallest cluster; with 4, classes of MNIST fall short of 10 clusters
PERCENTILES = np.arange(97.5, 0, -2.5)  # of the distances to the nearest sample but one
NOISE = -1


class DbscanDiscovery(ClusteringDiscovery):
    """Cluster means of scikit-learn's `DBSCAN(eps, min_samples=3)`, with eps from the class itself.

    Candidates for eps are the percentiles 97.5, 95, ... 2.5 of the distances at which samples have
    `min_samples` neighbours, themselves included. The largest that gives at least `ipc` clusters is taken
    (so the least noise), or else the largest of those that give the most clusters.

    More clusters than `ipc`: the `ipc` largest are kept. Fewer: the noise counts as one more cluster, and
    the cluster with the largest scatter is split in two until there are enough; the seed is that of the
    splits, DBSCAN itself has no chance in it. Means come from the largest cluster down, then those of splits;
    a weight is the share of the images nearest to the mean.
    """

    def __init__(self) -> None:
        # Loaded before any thread limit is set: limits reach only libraries that are there.
        from sklearn.cluster import DBSCAN
        from sklearn.metrics.pairwise import euclidean_distances

        self._dbscan, self._distances = DBSCAN, euclidean_distances

    def _fit(self, samples: Tensor, ipc: int, seed: int) -> Modes:
        # Less the mean, because the expanded squares of the distances cancel far from the origin.
        distances = self._distances((samples - samples.double().mean(0)).float().numpy())
        labels = torch.from_numpy(self._clusters(distances, ipc))
        found = int(labels.max()) + 1
        if found < ipc:
            labels[labels == NOISE] = found
            labels = split_clusters(samples, labels, ipc, seed)
        centers = member_means(samples, labels, ipc)
        weights = shares(nearest_centers(samples, centers), ipc)
        return Modes(centers, weights, nearest_samples(samples, centers))

    def _clusters(self, distances: NDArray[np.float32], ipc: int) -> NDArray[np.int64]:
        """Cluster of each sample, -1 for noise, numbered from the largest cluster down."""
        last = min(MIN_SAMPLES, len(distances)) - 1
        reach = np.partition(distances, last, axis=1)[:, last]
        best = np.full(len(distances), NOISE, dtype=np.int64)
        for eps in np.percentile(reach, PERCENTILES):
            # eps must be above 0, which it is not where most samples are copies.
            scan = self._dbscan(
                eps=max(float(eps), 1e-30), min_samples=MIN_SAMPLES, metric="precomputed"
            ).fit(distances)
            if scan.labels_.max() > best.max():
                best = scan.labels_.astype(np.int64)
            if best.max() + 1 >= ipc:
                break
        return _largest_first(best)


def _largest_first(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters by size, the first found first among equals."""
    order = np.argsort(-np.bincount(labels[labels != NOISE]), kind="stable")
    rank = np.full(len(order) + 1, NOISE)  # the last entry is where noise looks
    rank[order] = np.arange(len(order))
    return rank[labels]
