"""What the methods share: one thread, nearest samples, member means, and the rules for degenerate classes.

Shape letters: n images of a class, K modes, D = C*h*w.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.modes.mode_set import Modes

_ROWS_AT_A_TIME = 1024  # of float64 differences: 32 MiB at D = 4096


def one_thread(user_api: str | None = None) -> AbstractContextManager[object]:
    """Hold OpenMP and BLAS at one thread, so that results do not depend on how many there are.

    scikit-learn adds up partial sums in the order its threads finish: centres differ in the last bits between
    thread counts (9.5e-7 measured between one and two). Every fit runs on one thread, and `discover_modes`
    runs several classes side by side instead.

    It reaches only libraries that are loaded already. OpenMP's limit is the calling thread's. BLAS's is the
    process's: were it set in each fit alone, the first fit to end would lift it from the others.

    Args:
        user_api: "openmp" or "blas" to hold only one of them.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api=user_api)
    return limits


class ClusteringDiscovery(ABC):
    """A method of scikit-learn's, on one class at a time and one thread."""

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Find the modes of a class, as `ModeDiscovery.fit`.

        One with `ipc` distinct samples or fewer has these; see `few_distinct`.
        """
        samples = check_samples(features, ipc)
        few = few_distinct(samples, ipc, enough=ipc + 1)
        if few is not None:
            return few
        with one_thread():
            return self._fit(samples, ipc, seed)

    @abstractmethod
    def _fit(self, samples: Tensor, ipc: int, seed: int) -> Modes:
        """Find the modes of a class with more than `ipc` distinct samples."""


def check_samples(features: Tensor, ipc: int) -> Tensor:
    """Features [n, D] as float32; refuse fewer than `ipc` of them.

    Raises:
        ValueError: n < ipc.
    """
    if len(features) < ipc:
        raise ValueError(f"ipc must be at most the {len(features)} samples, got {ipc}")
    return features.float()


def few_distinct(samples: Tensor, ipc: int, enough: int) -> Modes | None:
    """Modes of a class with fewer than `enough` distinct samples; None for every other class.

    The modes are the distinct samples in order of first appearance, repeated in turn until there are `ipc`,
    and the copies of a sample share its weight equally.

    Args:
        samples: [n, D], on any device.
        ipc: K.
        enough: Distinct samples that a method can work with.
    """
    # Distinct values in one place of the latents prove distinct samples: hashing them takes 50 times longer.
    if len(torch.unique(samples[:, samples.shape[1] // 2])) >= enough:
        return None
    first, sizes = distinct_samples(samples)
    if len(first) >= enough:
        return None
    turn = np.arange(ipc) % len(first)
    weights = sizes[turn] / np.bincount(turn)[turn] / len(samples)
    rows = torch.from_numpy(first[turn])
    return Modes(samples.cpu()[rows].float(), torch.from_numpy(weights).float(), rows)


def distinct_samples(samples: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row and number of copies of each distinct sample, in order of first appearance."""
    found: dict[bytes, list[int]] = {}
    # Adding zero makes -0.0 equal to 0.0.
    for row, sample in enumerate((samples.cpu() + 0).numpy()):
        digest = hashlib.blake2b(sample.tobytes(), digest_size=16).digest()
        found.setdefault(digest, [row, 0])[1] += 1
    first, sizes = np.array(list(found.values()), dtype=np.int64).T
    return first, sizes


def nearest_samples(samples: Tensor, centers: Tensor) -> Tensor:
    """Row of the sample nearest to each centre, the first one of equals; int64 [K].

    A matrix product narrows the choice, differences make it: cancellation decides no near tie.

    Args:
        samples: [n, D].
        centers: [K, D], on the same device.
    """
    points, centers = samples.double(), centers.double()
    squares = points.square().sum(1)
    rough = squares - 2 * (centers @ points.T)  # [K, n], squared distance less a constant
    slack = 1e-9 * torch.maximum(squares.max(), centers.square().sum(1).max())
    modes, rows = (rough <= rough.min(1, keepdim=True).values + slack).nonzero(as_tuple=True)
    parts = zip(torch.split(rows, _ROWS_AT_A_TIME), torch.split(modes, _ROWS_AT_A_TIME), strict=True)
    exact = torch.cat([(points[row] - centers[mode]).square().sum(1) for row, mode in parts])
    least = exact.new_full((len(centers),), torch.inf).scatter_reduce(0, modes, exact, "amin")
    equals = exact == least[modes]
    nearest = rows.new_full((len(centers),), len(samples))
    return nearest.scatter_reduce(0, modes[equals], rows[equals], "amin")


def nearest_centers(samples: Tensor, centers: Tensor) -> Tensor:
    """Number of the centre nearest to each sample, the first one of equals; int64 [n]."""
    return nearest_samples(centers, samples)


def shares(labels: Tensor, count: int) -> Tensor:
    """Share of the samples that each of `count` clusters has; float32 [count]."""
    return (torch.bincount(labels, minlength=count).double() / len(labels)).float()


def member_means(samples: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean of the samples of each cluster, summed in float64; float32 [count, D], NaN for an empty one."""
    return torch.stack([samples[labels == one].double().mean(0) for one in range(count)]).float()


def split_clusters(samples: Tensor, labels: Tensor, count: int, seed: int) -> Tensor:
    """Split clusters until there are `count`: the one with the largest scatter becomes two by 2-means.

    Args:
        samples: float32 [n, D], on the CPU, at least `count` of them distinct.
        labels: int64 [n], cluster of each sample, any numbers.
        count: Clusters wanted, at least as many as there are.
        seed: Of the 2-means.

    Returns:
        int64 [n], numbers 0..count-1; clusters that were not split keep their order and come first.
    """
    from sklearn.cluster import KMeans

    labels = torch.unique(labels, return_inverse=True)[1]
    scatter = [_scatter(samples[labels == one]) for one in range(int(labels.max()) + 1)]
    while len(scatter) < count:
        widest = max(range(len(scatter)), key=scatter.__getitem__)
        rows = torch.nonzero(labels == widest)[:, 0]
        halves = KMeans(2, random_state=seed, n_init="auto").fit(samples[rows].numpy()).labels_
        labels[rows[torch.from_numpy(halves == 1)]] = len(scatter)
        scatter[widest] = _scatter(samples[labels == widest])
        scatter.append(_scatter(samples[labels == len(scatter)]))
    return labels


def cluster_modes(samples: Tensor, labels: Tensor, ipc: int, seed: int) -> Modes:
    """Means of clusters, after `split_clusters`, weighted by their shares of the samples."""
    labels = split_clusters(samples, labels, ipc, seed)
    centers = member_means(samples, labels, ipc)
    return Modes(centers, shares(labels, ipc), nearest_samples(samples, centers))


def _scatter(samples: Tensor) -> float:
    """Sum of squared distances from the mean; exactly zero for copies of one sample."""
    centered = samples.double() - samples[0].double()
    return float((centered - centered.mean(0)).square().sum())
