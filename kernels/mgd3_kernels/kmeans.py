"""K-means of many problems at once: greedy k-means++ start and Lloyd's iterations, as scikit-learn runs them.

Shape letters: P problems, N rows of all problems, n rows of one, D features, K clusters, T trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mgd3_kernels.kmeans_reference import choose_rows, run_lloyd
from mgd3_kernels.launching import kernel_launcher, launches
from mgd3_kernels.philox import philox4x32

_MAX_CLUSTERS = 256
_MAX_PROBLEMS = 65535  # a CUDA grid's second axis
_MAX_ROWS = 2**31 - 1  # of one problem: row numbers are int32
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class KMeansResult:
    """Clusters of P problems; all on the device of the features.

    Args:
        centers: float32 `[P, K, D]`, means of their clusters.
        labels: int32 `[N]`, 0..K-1: the nearest of its problem's centres, for each row.
        inertia: float32 `[P]`, sum of squared distances of a problem's rows to their centres.
        iterations: int32 `[P]`, Lloyd iterations run, from 1.
    """

    centers: Tensor
    labels: Tensor
    inertia: Tensor
    iterations: Tensor


def batched_kmeans_reference(
    features: Tensor,
    offsets: Tensor,
    num_clusters: int,
    *,
    seed: int,
    max_iterations: int = 300,
    tolerance: float = 1e-4,
) -> KMeansResult:
    """Cluster one problem after the other in plain torch, float64.

    Arguments as `batched_kmeans`.

    Returns:
        As `batched_kmeans`, rounded to float32 at the end.

    Raises:
        ValueError: As `batched_kmeans`.
    """
    bounds = _check_arguments(features, offsets, num_clusters, seed, max_iterations, tolerance)
    uniforms = trial_uniforms(num_clusters, seed).to(features.device)
    result = empty_result(features, len(bounds) - 1, num_clusters)
    for p, (first, last) in enumerate(pairwise(bounds)):
        x = features[first:last].double()  # [n, D]
        mean = x.mean(dim=0)
        x -= mean
        # The kernels' float32 must hold every squared distance, at most four times the sum of all squares.
        if not (4 * x.square().sum()).float().isfinite():
            raise not_finite(p)
        start = x[choose_rows(x, uniforms)]  # [K, D]
        centers, labels, inertia, iterations = run_lloyd(x, start, max_iterations, tolerance)
        result.centers[p] = centers + mean
        result.labels[first:last] = labels
        result.inertia[p] = inertia
        result.iterations[p] = iterations
    return result


def batched_kmeans(
    features: Tensor,
    offsets: Tensor,
    num_clusters: int,
    *,
    seed: int,
    max_iterations: int = 300,
    tolerance: float = 1e-4,
) -> KMeansResult:
    """Cluster the rows of each problem: Triton for all problems at once on CUDA, plain torch elsewhere.

    The start is greedy k-means++ (Arthur and Vassilvitskii 2007): of 2 + floor(ln K) trials for each centre,
    the one that leaves the least potential is kept. Lloyd's iterations follow, until the labels repeat or the
    centres' squared shift is at most `tolerance` times the mean variance of the features. A cluster that runs
    empty takes the row farthest from its centre. These are scikit-learn's rules (`KMeans(n_init=1)`); the
    random choices are this package's own.

    A problem's result depends on its rows, num_clusters, seed, max_iterations and tolerance alone, bit for
    bit on one GPU. It does not depend on the other problems of the call or their order, so a large call may
    be split to bound the memory. With fewer distinct rows than clusters, the distinct rows are all among the
    centres, up to rounding, and the surplus centres repeat some of them.

    Args:
        features: float32 or float16 `[N, D]`, contiguous, finite: the rows of all problems end to end.
        offsets: int64 `[P + 1]` on the CPU: problem p has rows offsets[p] to offsets[p + 1] - 1, and
            sizes may differ.
        num_clusters: K, 1..256, at most the rows of the smallest problem.
        seed: 0..2**64-1, the same for every problem.
        max_iterations: at least 1.
        tolerance: at least 0; see above.

    Returns:
        Centres, labels, inertia and iteration counts.

    Raises:
        ValueError: A shape, dtype, device, layout or range is wrong, a problem has fewer rows than clusters
            or rows that are not finite (both named by their index), or features are on CUDA and Triton is
            missing.
    """
    if not launches(features):
        return batched_kmeans_reference(
            features, offsets, num_clusters, seed=seed, max_iterations=max_iterations, tolerance=tolerance
        )
    bounds = _check_arguments(features, offsets, num_clusters, seed, max_iterations, tolerance)
    uniforms = trial_uniforms(num_clusters, seed)
    result = empty_result(features, len(bounds) - 1, num_clusters)
    if len(bounds) > 1:
        kernel_launcher("triton_kmeans")(features, offsets, uniforms, max_iterations, tolerance, result)
    return result


def trial_uniforms(num_clusters: int, seed: int) -> Tensor:
    """Uniform numbers that choose the candidates of each centre.

    Number t of centre c is (w + 1/2) / 2**32, w the first word of
    Philox4x32-10(counter = (t, c, 0, 1), key = (low, high word of the seed)); word 3 sets these counters
    apart from `philox_normal`'s.

    Args:
        num_clusters: K.
        seed: 0..2**64-1.

    Returns:
        float64 `[K, T]` on the CPU, between 0 and 1, T = 2 + floor(ln K).
    """
    trials = 2 + int(math.log(num_clusters))
    counter = torch.zeros((num_clusters, trials, 4), dtype=torch.int64)
    counter[..., 0] = torch.arange(trials)
    counter[..., 1] = torch.arange(num_clusters)[:, None]
    counter[..., 3] = 1
    words = philox4x32(counter, torch.tensor([seed & _WORD, seed >> 32]))[..., 0]
    return (words.double() + 0.5) / 2**32


def empty_result(features: Tensor, problems: int, num_clusters: int) -> KMeansResult:
    """Results to be filled in, on the device of the features."""
    device = features.device
    return KMeansResult(
        torch.empty((problems, num_clusters, features.shape[1]), dtype=torch.float32, device=device),
        torch.empty(len(features), dtype=torch.int32, device=device),
        torch.empty(problems, dtype=torch.float32, device=device),
        torch.empty(problems, dtype=torch.int32, device=device),
    )


def not_finite(problem: int) -> ValueError:
    """The error for rows whose squared distances float32 cannot hold."""
    return ValueError(
        f"features must be finite, and so their squared distances in float32, got others in problem {problem}"
    )


def _check_arguments(
    features: Tensor, offsets: Tensor, num_clusters: int, seed: int, max_iterations: int, tolerance: float
) -> list[int]:
    """Refuse what the kernels would read or write wrongly; the offsets as a list."""
    if features.ndim != 2 or features.shape[1] < 1 or features.dtype not in (torch.float32, torch.float16):
        raise ValueError(
            f"features must be float32 or float16 [N, D], got {features.dtype} {list(features.shape)}"
        )
    if not features.is_contiguous():
        raise ValueError(f"features must be contiguous, got strides {list(features.stride())}")
    if offsets.ndim != 1 or len(offsets) < 1 or offsets.dtype != torch.int64 or offsets.is_cuda:
        raise ValueError(
            f"offsets must be int64 [P + 1] on the CPU, "
            f"got {offsets.dtype} {list(offsets.shape)} on {offsets.device}"
        )
    if len(offsets) - 1 > _MAX_PROBLEMS:
        raise ValueError(f"offsets must be of at most {_MAX_PROBLEMS} problems, got {len(offsets) - 1}")
    if not 1 <= num_clusters <= _MAX_CLUSTERS:
        raise ValueError(f"num_clusters must be from 1 to {_MAX_CLUSTERS}, got {num_clusters}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2**64-1, got {seed}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be at least 0 and finite, got {tolerance}")
    bounds: list[int] = offsets.tolist()
    _check_bounds(bounds, len(features), num_clusters)
    return bounds


def _check_bounds(bounds: list[int], rows: int, num_clusters: int) -> None:
    if bounds[0] != 0 or bounds[-1] != rows:
        raise ValueError(f"offsets must go from 0 to the {rows} rows, got {bounds[0]} to {bounds[-1]}")
    for p, (first, last) in enumerate(pairwise(bounds)):
        if last - first > _MAX_ROWS:
            raise ValueError(f"offsets must give a problem at most {_MAX_ROWS} rows, got {last - first}")
        if last < first:
            raise ValueError(f"offsets must not decrease, got {first} before {last} at problem {p}")
        if last - first < num_clusters:
            raise ValueError(
                f"num_clusters must be at most the {last - first} rows of problem {p}, got {num_clusters}"
            )
