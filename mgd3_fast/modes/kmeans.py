"""K-means as the authors run it: scikit-learn, one k-means++ start, Lloyd's iterations.

Shape letters: n images of a class, K modes, D = C*H*W.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.modes.method import Modes


class KMeansDiscovery:
    """Cluster centres of scikit-learn's `KMeans(n_clusters=ipc, random_state=seed, n_init="auto")`.

    scikit-learn adds up partial sums in the order its threads finish, so centres differ in the last bits
    between thread counts (9.5e-7 measured between one and two); every fit here runs on one thread, and
    `discover_modes` runs several classes side by side instead.
    """

    def __init__(self) -> None:
        # Loaded before any thread limit is set: limits reach only libraries that are there.
        from sklearn.cluster import KMeans

        self._kmeans = KMeans

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Cluster the latents of a class (MGD3 section 4.1: modes are the centroids, K = IPC).

        Fewer than `ipc` distinct samples would leave clusters empty. Then the modes are the distinct
        samples in order of first appearance, repeated in turn until there are `ipc`, and the copies of a
        sample share its weight equally.

        Args:
            features: float32 [n, D], n >= ipc.
            ipc: K.
            seed: 0..2^32-1.

        Returns:
            Centres in k-means order, their shares of the samples, and the sample nearest to each.

        Raises:
            ValueError: n < ipc.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        samples = features.to(torch.float32).numpy()
        if len(samples) < ipc:
            raise ValueError(f"ipc must be at most the {len(samples)} samples, got {ipc}")
        first, sizes = _distinct_samples(samples)
        if len(first) < ipc:
            turn = np.arange(ipc) % len(first)
            shares = sizes / np.bincount(turn) / len(samples)
            return _modes(samples[first[turn]], shares[turn], first[turn])
        with threadpool_limits(limits=1):
            fitted = self._kmeans(n_clusters=ipc, random_state=seed, n_init="auto").fit(samples)
            centers = fitted.cluster_centers_.astype(np.float32)
            nearest = _nearest_samples(samples, centers)
        shares = np.bincount(fitted.labels_, minlength=ipc) / len(samples)
        return _modes(centers, shares, nearest)


def _distinct_samples(samples: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row and number of copies of each distinct sample, in order of first appearance."""
    found: dict[bytes, list[int]] = {}
    for row, sample in enumerate(samples):
        # Adding zero makes -0.0 equal to 0.0.
        digest = hashlib.blake2b((sample + np.float32(0)).tobytes(), digest_size=16).digest()
        found.setdefault(digest, [row, 0])[1] += 1
    first, sizes = np.array(list(found.values()), dtype=np.int64).T
    return first, sizes


def _nearest_samples(samples: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Row of the sample nearest to each centre, the first one of equals.

    A matrix product narrows the choice, float64 differences make it: cancellation decides no near tie.
    """
    squares = np.einsum("nd,nd->n", samples, samples)
    rough = squares[:, None] - 2 * (samples @ centers.T)  # [n, K], squared distance less a constant
    slack = 1e-4 * max(float(squares.max()), float(np.einsum("kd,kd->k", centers, centers).max()))
    nearest = []
    for center, distances in zip(centers.astype(np.float64), rough.T, strict=True):
        near = np.flatnonzero(distances <= distances.min() + slack)
        nearest.append(near[np.argmin(np.square(samples[near] - center).sum(axis=1))])
    return np.array(nearest, dtype=np.int64)


def _modes(centers: NDArray[np.float32], shares: NDArray[np.float64], nearest: NDArray[np.int64]) -> Modes:
    return Modes(
        torch.from_numpy(np.ascontiguousarray(centers)),
        torch.from_numpy(shares.astype(np.float32)),
        torch.from_numpy(nearest),
    )
