"""Means of a mixture of Gaussians, the best of MGD3's Table 7, by scikit-learn.

Shape letters: n images of a class, K components, D = C*h*w, d principal components.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.modes.clusters import ClusteringDiscovery, cluster_modes, few_distinct, nearest_samples
from mgd3_fast.modes.mode_set import Modes

SAMPLES_PER_DIMENSION = 2
MOST_COMPONENTS = 32
_REGULARISATION = 1e-6  # of the mean variance, added to every variance
_DEAD = 0.5  # images: a component that answers for fewer has no mean worth having


class GaussianMixtureDiscovery(ClusteringDiscovery):
    """Component means of scikit-learn's `GaussianMixture(n_components=ipc, random_state=seed)`.

    Covariances are full where a component has at least two samples per dimension on average
    (n >= 2 * D * ipc), diagonal everywhere else: a full one of 4,096 dimensions has 8.4 million entries.
    Weights are the mixture's. A component that ends up with less than half an image gives its place to a half
    of the widest cluster; see `split_clusters`.
    """

    def __init__(self) -> None:
        # Loaded before any thread limit is set: limits reach only libraries that are there.
        from sklearn.mixture import GaussianMixture

        self._mixture = GaussianMixture

    def _fit(self, samples: Tensor, ipc: int, seed: int) -> Modes:
        answers = self._responsibilities(samples, ipc, seed)  # [n, K]
        images = answers.sum(axis=0)
        if images.min() < _DEAD:
            return cluster_modes(samples, torch.from_numpy(answers.argmax(axis=1)), ipc, seed)
        means = answers.T @ samples.double().numpy() / images[:, None]
        centers = torch.from_numpy(means.astype(np.float32))
        weights = torch.from_numpy((images / images.sum()).astype(np.float32))
        return Modes(centers, weights, nearest_samples(samples, centers))

    def _responsibilities(self, samples: Tensor, ipc: int, seed: int) -> NDArray[np.float64]:
        """How far each component answers for each sample; rows add up to 1."""
        return self._fit_mixture(_centered(samples), ipc, seed)

    def _fit_mixture(self, points: NDArray[np.float64], ipc: int, seed: int) -> NDArray[np.float64]:
        full = len(points) >= SAMPLES_PER_DIMENSION * points.shape[1] * ipc
        mixture = self._mixture(
            ipc,
            covariance_type="full" if full else "diag",
            reg_covar=_REGULARISATION * float(points.var(axis=0).mean()),
            max_iter=300,
            random_state=seed,
        )
        answers: NDArray[np.float64] = mixture.fit(points).predict_proba(points)
        return answers


class ProjectedMixtureDiscovery(GaussianMixtureDiscovery):
    """A mixture in the class's first principal components, where covariances can be full.

    There are d = n / (2 * ipc) of them, so that a component has two samples per dimension on average, and
    from 1 to 32. A mode is the mean of the whole latents, each weighted by how far the component answers for
    it: what the component's mean is in the projection. A class with fewer than `ipc` distinct projections
    keeps its latents as they are.
    """

    def __init__(self) -> None:
        from sklearn.decomposition import PCA

        super().__init__()
        self._pca = PCA

    def _responsibilities(self, samples: Tensor, ipc: int, seed: int) -> NDArray[np.float64]:
        wanted = len(samples) // (SAMPLES_PER_DIMENSION * ipc)
        components = max(1, min(wanted, MOST_COMPONENTS, samples.shape[1]))
        points = _centered(samples)
        projection = self._pca(components, svd_solver="randomized", random_state=seed)
        projected = projection.fit_transform(points)  # [n, d]
        if few_distinct(torch.from_numpy(projected).float(), ipc, enough=ipc) is not None:
            projected = points
        return self._fit_mixture(projected, ipc, seed)


def _centered(samples: Tensor) -> NDArray[np.float64]:
    """Less their mean, in float64: the expanded squares of the likelihood cancel far from the origin."""
    return (samples.double() - samples.double().mean(0)).numpy()
