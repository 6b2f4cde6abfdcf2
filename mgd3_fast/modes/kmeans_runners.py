"""What runs K-means: scikit-learn on a CPU, cuML or this project's batched kernels on a GPU.

All follow one rule (greedy k-means++ start, Lloyd's iterations until centres move less than 1e-4 of the mean
variance, at most 300), but draw and add up differently: their centres differ, and so the runner is part of
what identifies a set of modes.

Shape letters: N images of P classes end to end, K clusters, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mgd3_engine.installing import install_command
from mgd3_fast.errors import UserError
from mgd3_fast.modes.clusters import one_thread

NO_RUNNER = "none"
MOST_ITERATIONS = 300
TOLERANCE = 1e-4
MOST_TRITON_CLUSTERS = 256


@dataclass(frozen=True)
class Clusters:
    """K-means clusters of P classes, on the device of their features.

    Args:
        centers: float32 [P, K, D].
        labels: int64 [N], 0..K-1, which cluster of its class each row belongs to.
    """

    centers: Tensor
    labels: Tensor


class KMeansRunner(Protocol):
    """Runs K-means on several classes; each class's result is that of the class alone."""

    @property
    def on_device(self) -> bool:
        """Whether features are wanted on the device, many classes in one call."""
        ...

    def cluster(self, features: Tensor, offsets: Sequence[int], k: int, seed: int) -> Clusters:
        """Cluster each class; class p has rows offsets[p]..offsets[p + 1] of float32 or float16 [N, D]."""
        ...


class SklearnKMeans:
    """scikit-learn's `KMeans(n_clusters=k, random_state=seed, n_init="auto")`, as the authors run it."""

    on_device = False

    def __init__(self) -> None:
        # Loaded before any thread limit is set: limits reach only libraries that are there.
        from sklearn.cluster import KMeans

        self._kmeans = KMeans

    def cluster(self, features: Tensor, offsets: Sequence[int], k: int, seed: int) -> Clusters:
        """Cluster each class on one thread; see `KMeansRunner.cluster`."""
        with one_thread():
            fitted = [
                self._kmeans(k, random_state=seed, n_init="auto").fit(features[begin:end].float().numpy())
                for begin, end in pairwise(offsets)
            ]
        return Clusters(
            torch.stack([torch.from_numpy(one.cluster_centers_).float() for one in fitted]),
            torch.cat([torch.from_numpy(one.labels_).long() for one in fitted]),
        )


class CumlKMeans:
    """cuML's `cluster.KMeans`, class after class; features and results cross by DLPack, without a copy.

    cuML compares the movement of the centres with `tol` as it is, where scikit-learn scales it by the mean
    variance of the features: it is scaled here, so that both stop by one rule.

    Raises:
        UserError: cuML or CuPy is not installed.
    """

    on_device = True

    def __init__(self) -> None:
        try:
            import cupy
            from cuml.cluster import KMeans
        except ImportError as error:
            raise without_cuml(str(error)) from None
        self._cupy: Any = cupy
        self._kmeans: Any = KMeans

    def cluster(self, features: Tensor, offsets: Sequence[int], k: int, seed: int) -> Clusters:
        """Cluster each class; see `KMeansRunner.cluster`."""
        centers, labels = [], []
        with self._cupy.cuda.Device(features.device.index or 0):
            for begin, end in pairwise(offsets):
                samples = features[begin:end].float().contiguous()
                spread = float(samples.var(0, correction=0).mean())
                fitted = self._kmeans(
                    n_clusters=k,
                    max_iter=MOST_ITERATIONS,
                    tol=TOLERANCE * spread,
                    init="scalable-k-means++",
                    n_init=1,
                    random_state=seed,
                    output_type="cupy",
                ).fit(self._cupy.from_dlpack(samples))
                centers.append(from_dlpack(fitted.cluster_centers_))
                labels.append(from_dlpack(fitted.labels_).long())
        return Clusters(torch.stack(centers), torch.cat(labels))


class TritonKMeans:
    """This project's batched K-means: all classes of a call at once, each stopping on its own.

    On a CPU its plain torch form runs, which is exact and slow.
    """

    on_device = True

    def __init__(self) -> None:
        from mgd3_kernels import batched_kmeans

        self._batched_kmeans = batched_kmeans

    def cluster(self, features: Tensor, offsets: Sequence[int], k: int, seed: int) -> Clusters:
        """Cluster all classes at once; see `KMeansRunner.cluster`."""
        bounds = torch.tensor(offsets, dtype=torch.int64)
        # Triton launches on the current device.
        with torch.cuda.device_of(features):  # type: ignore[no-untyped-call]
            found = self._batched_kmeans(
                features, bounds, k, seed=seed, max_iterations=MOST_ITERATIONS, tolerance=TOLERANCE
            )
        return Clusters(found.centers, found.labels.long())


_RUNNERS: dict[str, type[KMeansRunner]] = {
    "sklearn": SklearnKMeans,
    "cuml": CumlKMeans,
    "triton": TritonKMeans,
}
RUNNER_NAMES = tuple(_RUNNERS)


def kmeans_runner(name: str) -> KMeansRunner:
    """Make a runner known by one of `RUNNER_NAMES`.

    Raises:
        UserError: No such runner, or a package it needs is missing.
    """
    if name not in _RUNNERS:
        raise UserError(f"kmeans must be one of auto, {', '.join(RUNNER_NAMES)}, got {name!r}")
    return _RUNNERS[name]()


def without_cuml(reason: str) -> UserError:
    """Say that cuML cannot be had, and why."""
    return UserError(
        "kmeans must be one that works here, got 'cuml', which needs packages for CUDA 13"
        f" ({install_command('cuda13')}) or CUDA 12 ({install_command('cuda12')}): {reason}"
    )
