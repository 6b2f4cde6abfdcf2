"""K-means of one problem in plain torch: what the kernels must find, without their rounding.

Shape letters: n rows, D features, K clusters, T trials.
"""

from __future__ import annotations

import torch
from torch import Tensor


def run_lloyd(
    x: Tensor, centers: Tensor, max_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Lloyd's iterations from given centres; see `batched_kmeans`.

    Args:
        x: float64 `[n, D]`, n >= K, less their mean: expanded squares lose the fewest digits about it.
        centers: float64 `[K, D]`.
        max_iterations: at least 1.
        tolerance: at least 0.

    Returns:
        Centres float64 `[K, D]`, labels int64 `[n]`, inertia float64 `[]`, and the number of iterations.
    """
    threshold = tolerance * x.square().mean()
    labels = torch.full((len(x),), -1, device=x.device)
    iterations = 0
    settled = False
    while not settled and iterations < max_iterations:
        previous, labels = labels, _nearest(x, centers)
        moved = _means(x, _fill_empty(x, labels, centers), len(centers))
        shift = (moved - centers).square().sum()
        settled = torch.equal(labels, previous) or bool(shift <= threshold)
        centers = moved
        iterations += 1
    labels = _nearest(x, centers)
    return centers, labels, _distances(x, labels, centers).sum(), iterations


def choose_rows(x: Tensor, uniforms: Tensor) -> Tensor:
    """Rows that start as centres, by greedy k-means++.

    The first is drawn evenly. For each further one T candidates are drawn with probability proportional to
    the squared distance from the nearest row already chosen, and the candidate that leaves the smallest sum
    of these distances is kept, the first of equals.

    Args:
        x: float64 `[n, D]`.
        uniforms: float64 `[K, T]`.

    Returns:
        int64 `[K]`. Once every row is at a centre, row 0.
    """
    n = len(x)
    chosen: list[Tensor] = []
    closest = torch.full((n,), torch.inf, dtype=x.dtype, device=x.device)
    candidates = (uniforms[0, :1] * n).long().clamp_max(n - 1)
    for draws in uniforms:
        if chosen:
            reached = torch.cumsum(closest, 0)  # [n]
            candidates = (reached[:, None] < draws * reached[-1]).sum(0).clamp_max(n - 1)  # [T]
        # Differences, not expanded squares: a copy of a chosen row is at distance 0 exactly.
        gaps = torch.cdist(x, x[candidates], compute_mode="donot_use_mm_for_euclid_dist")  # [n, T]
        left = torch.minimum(gaps.square(), closest[:, None])
        best = left.sum(0).argmin()
        closest = left[:, best]
        chosen.append(candidates[best])
    return torch.stack(chosen)


def _nearest(x: Tensor, centers: Tensor) -> Tensor:
    """Nearest centre of each row, the first of equals: argmin of |c|^2 - 2 x.c."""
    return (centers.square().sum(1) - 2 * (x @ centers.T)).argmin(dim=1)  # [n]


def _distances(x: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    return (x - centers[labels]).square().sum(1)  # [n]


def _fill_empty(x: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Labels in which each empty cluster, in order, has taken the row farthest from its centre.

    Rows at their centre are not taken, which would change nothing but the copy that a cluster holds.
    """
    empty = (torch.bincount(labels, minlength=len(centers)) == 0).nonzero().flatten()
    if not len(empty):
        return labels
    distances = _distances(x, labels, centers)
    farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
    farthest = farthest[distances[farthest] > 0]
    return labels.index_copy(0, farthest, empty[: len(farthest)])


def _means(x: Tensor, members: Tensor, num_clusters: int) -> Tensor:
    """Mean of each cluster; one that is still empty repeats the largest's."""
    sizes = torch.bincount(members, minlength=num_clusters)
    one_hot = (members == torch.arange(num_clusters, device=x.device)[:, None]).to(x.dtype)  # [K, n]
    means = one_hot @ x / sizes.clamp_min(1)[:, None]
    return torch.where((sizes > 0)[:, None], means, means[sizes.argmax()])
