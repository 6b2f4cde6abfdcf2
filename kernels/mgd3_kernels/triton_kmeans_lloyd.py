"""Distances and means of a Lloyd iteration as Triton kernels; `batched_kmeans` documents the algorithm.

Shape letters: P problems, N rows of all problems, n rows of one, D features, K clusters, S slices of D.
`WIDTH` is the power of 2 that holds K clusters.

Every kernel returns at once for a problem that is done, so that an iteration can be launched, or captured in
a CUDA graph, without knowing which problems still run. No sum depends on the order in which programs finish.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from mgd3_kernels.triton_kmeans_start import load_tile, problem_rows


@triton.jit
def assign_kernel(
    features_ptr,
    offsets_ptr,
    mean_ptr,
    centers_ptr,
    norms_ptr,
    done_ptr,
    labels_ptr,
    members_ptr,
    K,
    D,
    S,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Nearest centre of each row, the first of equals, into `labels` and `members`."""
    problem = tl.program_id(1).to(tl.int64)
    if tl.load(done_ptr + problem) != 0:
        return
    first, n = problem_rows(offsets_ptr, problem)
    if tl.program_id(0) * BLOCK_N >= n:
        return
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    nearest = tl.zeros((BLOCK_N,), tl.int32)
    least = tl.full((BLOCK_N,), float("inf"), tl.float32)
    for chunk in range(0, K, BLOCK_K):
        clusters = chunk + tl.arange(0, BLOCK_K)
        # |x - c|^2 less |x|^2, which is the same for all centres. Rows are taken about the mean as they are
        # read, where the expanded square loses the fewest digits; centres are stored so. Emulated at 4096
        # features, the worst error is 5e-8 of the mean distance, wherever the origin lies, and 7e-5 in plain
        # tf32; not about the mean, an origin 1000 away leaves no right label.
        products = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        for start in range(0, D, BLOCK_D):
            offs_d = start + tl.arange(0, BLOCK_D)
            mean = tl.load(mean_ptr + problem * D + offs_d, mask=offs_d < D, other=0.0)
            x = load_tile(features_ptr, first + tl.minimum(rows, n - 1), offs_d, D) - mean[None, :]
            center = load_tile(centers_ptr, problem * K + tl.minimum(clusters, K - 1), offs_d, D)
            products = tl.dot(x, tl.trans(center), products, input_precision="tf32x3")
        norms = tl.zeros((BLOCK_K,), tl.float32)
        for s in range(S):
            norms += tl.load(norms_ptr + (problem * S + s) * K + clusters, mask=clusters < K, other=0.0)
        scores = tl.where((clusters < K)[None, :], norms[None, :] - 2.0 * products, float("inf"))
        best = tl.min(scores, axis=1)
        nearest = tl.where(best < least, chunk + tl.argmin(scores, axis=1), nearest)
        least = tl.minimum(least, best)
    tl.store(labels_ptr + first + rows, nearest, mask=rows < n)
    tl.store(members_ptr + first + rows, nearest, mask=rows < n)


@triton.jit
def distance_kernel(
    features_ptr,
    offsets_ptr,
    mean_ptr,
    centers_ptr,
    labels_ptr,
    sizes_ptr,
    done_ptr,
    distances_ptr,
    K,
    D,
    WIDTH: tl.constexpr,
    WHERE_EMPTY: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Squared distance of each row to its centre; with `WHERE_EMPTY` only if a cluster has no rows."""
    problem = tl.program_id(1).to(tl.int64)
    if tl.load(done_ptr + problem) != 0:
        return
    first, n = problem_rows(offsets_ptr, problem)
    if tl.program_id(0) * BLOCK_N >= n:
        return
    if WHERE_EMPTY:
        clusters = tl.arange(0, WIDTH)
        sizes = tl.load(sizes_ptr + problem * K + clusters, mask=clusters < K, other=1)
        if tl.min(sizes, axis=0) > 0:
            return
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    label = tl.load(labels_ptr + first + rows, mask=rows < n, other=0)
    squares = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, D, BLOCK_D):
        offs_d = start + tl.arange(0, BLOCK_D)
        mean = tl.load(mean_ptr + problem * D + offs_d, mask=offs_d < D, other=0.0)
        x = load_tile(features_ptr, first + tl.minimum(rows, n - 1), offs_d, D) - mean[None, :]
        gap = x - load_tile(centers_ptr, problem * K + label, offs_d, D)
        squares += gap * gap
    tl.store(distances_ptr + first + rows, tl.sum(squares, axis=1), mask=rows < n)


@triton.jit
def update_kernel(
    features_ptr,
    offsets_ptr,
    mean_ptr,
    order_ptr,
    starts_ptr,
    sizes_ptr,
    stale_ptr,
    done_ptr,
    centers_ptr,
    norms_ptr,
    shifts_ptr,
    K,
    D,
    S,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Mean of a changed cluster's rows over a slice of D, its square, and how far it went."""
    part = tl.program_id(0) % S
    cluster = tl.program_id(0) // S
    problem = tl.program_id(1).to(tl.int64)
    if tl.load(done_ptr + problem) != 0:
        return
    if tl.load(stale_ptr + problem * K + cluster) == 0:
        return
    first = tl.load(offsets_ptr + problem)
    # A cluster that is still empty repeats the largest one's centre.
    clusters = tl.arange(0, WIDTH)
    sizes = tl.load(sizes_ptr + problem * K + clusters, mask=clusters < K, other=-1)
    source = cluster
    if tl.load(sizes_ptr + problem * K + cluster) == 0:
        source = tl.argmax(sizes, axis=0)
    size = tl.load(sizes_ptr + problem * K + source)
    begin = first + tl.load(starts_ptr + problem * K + source)

    offs_d = part * BLOCK_D + tl.arange(0, BLOCK_D)
    mean = tl.load(mean_ptr + problem * D + offs_d, mask=offs_d < D, other=0.0)
    sums = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, size, BLOCK_N):
        places = start + tl.arange(0, BLOCK_N)
        rows = first + tl.load(order_ptr + begin + tl.minimum(places, size - 1))
        x = load_tile(features_ptr, rows, offs_d, D)
        sums += tl.where((places < size)[:, None], x - mean[None, :], 0.0)
    center = tl.sum(sums, axis=0) / size

    center_ptr = centers_ptr + (problem * K + cluster) * D + offs_d
    gap = center - tl.load(center_ptr, mask=offs_d < D, other=0.0)
    tl.debug_barrier()  # no thread stores before all have loaded
    tl.store(center_ptr, center, mask=offs_d < D)
    at = (problem * S + part) * K + cluster
    tl.store(norms_ptr + at, tl.sum(center * center, axis=0))
    tl.store(shifts_ptr + at, tl.sum(gap * gap, axis=0))


@triton.jit
def settle_kernel(
    moved_ptr, stale_ptr, shifts_ptr, threshold_ptr, done_ptr, iterations_ptr, K, S, WIDTH: tl.constexpr
):
    """Count the iteration, and end the problem whose labels repeat or whose centres hardly shifted."""
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(done_ptr + problem) != 0:
        return
    clusters = tl.arange(0, WIDTH)
    stale = tl.load(stale_ptr + problem * K + clusters, mask=clusters < K, other=0) != 0
    shifts = tl.zeros((WIDTH,), tl.float32)
    for s in range(S):
        shifts += tl.load(shifts_ptr + (problem * S + s) * K + clusters, mask=stale, other=0.0)
    small = tl.sum(shifts, axis=0) <= tl.load(threshold_ptr + problem)
    settled = (tl.load(moved_ptr + problem) == 0) | small
    count = tl.load(iterations_ptr + problem) + 1
    tl.debug_barrier()  # no thread stores before all have loaded
    tl.store(done_ptr + problem, settled.to(tl.int32))
    tl.store(iterations_ptr + problem, count)


@triton.jit
def inertia_kernel(offsets_ptr, distances_ptr, inertia_ptr, BLOCK_N: tl.constexpr):
    """Sum of a problem's squared distances, in float64."""
    problem = tl.program_id(0).to(tl.int64)
    first, n = problem_rows(offsets_ptr, problem)
    sums = tl.zeros((BLOCK_N,), tl.float64)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        sums += tl.load(distances_ptr + first + rows, mask=rows < n, other=0.0).to(tl.float64)
    tl.store(inertia_ptr + problem, tl.sum(sums, axis=0).to(tl.float32))
