"""Which rows a cluster has, kept between the distances and the means of a Lloyd iteration, as Triton kernels.

Shape letters: P problems, N rows of all problems, n rows of one, K clusters. `WIDTH` is the power of 2 that
holds K clusters.

As those of `triton_kmeans_lloyd`, these kernels return at once for a problem that is done.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from mgd3_kernels.triton_kmeans_start import problem_rows


@triton.jit
def count_kernel(
    offsets_ptr,
    labels_ptr,
    previous_ptr,
    done_ptr,
    sizes_ptr,
    moved_ptr,
    K,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Rows of each cluster, and how many rows have another label than before."""
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(done_ptr + problem) != 0:
        return
    first, n = problem_rows(offsets_ptr, problem)
    clusters = tl.arange(0, WIDTH)
    sizes = tl.zeros((WIDTH,), tl.int32)
    moved = tl.zeros((BLOCK_N,), tl.int32)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        label = tl.load(labels_ptr + first + rows, mask=rows < n, other=-1)
        before = tl.load(previous_ptr + first + rows, mask=rows < n, other=-1)
        sizes += tl.sum((label[:, None] == clusters[None, :]).to(tl.int32), axis=0)
        moved += (label != before).to(tl.int32)
    tl.store(sizes_ptr + problem * K + clusters, sizes, mask=clusters < K)
    tl.store(moved_ptr + problem, tl.sum(moved, axis=0))


@triton.jit
def refill_kernel(
    offsets_ptr,
    sizes_ptr,
    done_ptr,
    distances_ptr,
    members_ptr,
    K,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Each empty cluster, in order, takes the row farthest from its centre that no other has taken."""
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(done_ptr + problem) != 0:
        return
    clusters = tl.arange(0, WIDTH)
    sizes = tl.load(sizes_ptr + problem * K + clusters, mask=clusters < K, other=1)
    if tl.min(sizes, axis=0) > 0:
        return
    first, n = problem_rows(offsets_ptr, problem)
    # Rows in the order (distance falling, row rising); the last one taken says which are still free.
    taken_distance = tl.full((), float("inf"), tl.float32)
    taken_row = tl.full((), -1, tl.int32)
    for cluster in range(K):
        if (tl.load(sizes_ptr + problem * K + cluster) == 0) & (taken_distance > 0.0):
            farthest = tl.full((), -1.0, tl.float32)
            row = tl.full((), 0, tl.int32)
            for start in range(0, n, BLOCK_N):
                rows = start + tl.arange(0, BLOCK_N)
                distances = tl.load(distances_ptr + first + rows, mask=rows < n, other=-1.0)
                tied = (distances == taken_distance) & (rows > taken_row)
                distances = tl.where((distances < taken_distance) | tied, distances, -1.0)
                block_farthest = tl.max(distances, axis=0)
                block_row = start + tl.argmax(distances, axis=0)
                row = tl.where(block_farthest > farthest, block_row, row)
                farthest = tl.maximum(farthest, block_farthest)
            taken_distance = farthest
            taken_row = row
            if farthest > 0.0:
                tl.store(members_ptr + first + row, cluster)


@triton.jit
def group_kernel(
    offsets_ptr,
    members_ptr,
    previous_ptr,
    done_ptr,
    order_ptr,
    starts_ptr,
    sizes_ptr,
    stale_ptr,
    K,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Rows sorted by cluster, where each cluster starts, and whether its centre is no longer its mean."""
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(done_ptr + problem) != 0:
        return
    first, n = problem_rows(offsets_ptr, problem)
    clusters = tl.arange(0, WIDTH)
    sizes = tl.zeros((WIDTH,), tl.int32)
    moved = tl.zeros((WIDTH,), tl.int32)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        member = tl.load(members_ptr + first + rows, mask=rows < n, other=-1)
        before = tl.load(previous_ptr + first + rows, mask=rows < n, other=-1)
        mine = member[:, None] == clusters[None, :]
        sizes += tl.sum(mine.to(tl.int32), axis=0)
        moved += tl.sum((mine != (before[:, None] == clusters[None, :])).to(tl.int32), axis=0)
    begin = tl.cumsum(sizes, axis=0) - sizes
    offs = problem * K + clusters
    tl.store(starts_ptr + offs, begin, mask=clusters < K)
    tl.store(sizes_ptr + offs, sizes, mask=clusters < K)
    tl.store(stale_ptr + offs, ((moved > 0) | (sizes == 0)).to(tl.int32), mask=clusters < K)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        member = tl.load(members_ptr + first + rows, mask=rows < n, other=-1)
        mine = (member[:, None] == clusters[None, :]).to(tl.int32)
        places = begin[None, :] + tl.cumsum(mine, axis=0) - 1
        place = tl.sum(places * mine, axis=1)
        tl.store(order_ptr + first + place, rows, mask=rows < n)
        begin += tl.sum(mine, axis=0)
