"""Cluster means of spectral clustering, one of MGD3's Table 7, by scikit-learn.

Shape letters: n images of a class, K modes, D = C*h*w.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.modes.clusters import ClusteringDiscovery, cluster_modes
from mgd3_fast.modes.mode_set import Modes

NEIGHBOURS = 10


class SpectralDiscovery(ClusteringDiscovery):
    """Cluster means of scikit-learn's `SpectralClustering(ipc, affinity="precomputed", random_state=seed)`.

    The graph joins each sample to its 10 nearest, as scikit-learn's own affinity of neighbours does, and
    along the minimum spanning tree of all distances: without it classes fall into several pieces, and the
    embedding tells the pieces apart instead of the clusters.

    Fewer clusters than `ipc`: the one with the largest scatter is split in two until there are enough.
    A weight is the cluster's share of the images.
    """

    def __init__(self) -> None:
        # Loaded before any thread limit is set: limits reach only libraries that are there.
        from sklearn.cluster import SpectralClustering
        from sklearn.metrics.pairwise import euclidean_distances

        self._clustering, self._distances = SpectralClustering, euclidean_distances

    def _fit(self, samples: Tensor, ipc: int, seed: int) -> Modes:
        labels = torch.zeros(len(samples), dtype=torch.int64)
        if ipc > 1:
            # Less the mean, because the expanded squares of the distances cancel far from the origin.
            distances = self._distances((samples - samples.double().mean(0)).float().numpy())
            clustering = self._clustering(ipc, affinity="precomputed", random_state=seed)
            labels = torch.from_numpy(clustering.fit(_neighbour_graph(distances)).labels_.astype(np.int64))
        return cluster_modes(samples, labels, ipc, seed)


def _neighbour_graph(distances: NDArray[np.float32]) -> Any:
    """Symmetric sparse weights [n, n]: 1 for neighbours of each other, 1/2 for neighbours of one side.

    Edges of the minimum spanning tree have at least 1/2, so that the graph is connected.
    """
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import minimum_spanning_tree  # type: ignore[import-untyped]

    count = len(distances)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(NEIGHBOURS, count)]
    rows = np.repeat(np.arange(count), nearest.shape[1])
    chosen = csr_matrix((np.ones(rows.size), (rows, nearest.ravel())), shape=distances.shape)
    # A distance of zero is no edge to the tree: shifting all of them changes nothing else.
    lengths = distances.astype(np.float64)
    tree = minimum_spanning_tree(lengths + lengths.max())
    tree.data[:] = 0.5
    return ((chosen + chosen.T) / 2).maximum(tree + tree.T).tocsr()
