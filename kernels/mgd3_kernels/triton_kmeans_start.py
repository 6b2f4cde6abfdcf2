"""Means and greedy k-means++ starts of many problems as Triton kernels; `batched_kmeans` documents them.

Shape letters: P problems, N rows of all problems, n rows of one, D features, K clusters, T trials, a power
of 2, of which the first `TRIALS` count.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows and features that a program holds, its warps, and how many loads of a tile are on their way at once.
# Fused multiply-adds are asked for by name: Triton's default is about to change.
CENTER_TILE = {"BLOCK_N": 16, "BLOCK_D": 128, "num_warps": 4, "enable_fp_fusion": True}
# A trial of 200 classes on an H200 takes 1.27 ms, with 64 rows 1.36 (4 warps, 3 stages) to 1.75 (8 warps, 4).
TRIAL_TILE = {"BLOCK_N": 32, "BLOCK_D": 32, "STAGES": 4, "num_warps": 4, "enable_fp_fusion": True}
CHOOSE_TILE = {"BLOCK_N": 512, "num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def problem_rows(offsets_ptr, problem):
    """First row of a problem, int64, and how many it has, int32."""
    first = tl.load(offsets_ptr + problem)
    return first, (tl.load(offsets_ptr + problem + 1) - first).to(tl.int32)


@triton.jit
def load_tile(features_ptr, rows, offs_d, D):
    """Features `[rows, offs_d]` in float32, 0 beyond D; rows are int64 and exist.

    Callers repeat the last row where a tile ends: that costs no traffic, and a mask for each row would cost
    the assignment the registers that it has not got.
    """
    offs = rows[:, None] * D + offs_d[None, :]
    return tl.load(features_ptr + offs, mask=(offs_d < D)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _center_kernel(
    features_ptr, offsets_ptr, mean_ptr, variance_ptr, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    problem = tl.program_id(1).to(tl.int64)
    first, n = problem_rows(offsets_ptr, problem)
    offs_d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_d = offs_d < D

    # Gaps to the first row instead of to the mean: one pass, and no digits are lost far from the origin.
    origin = tl.load(features_ptr + first * D + offs_d, mask=mask_d, other=0.0).to(tl.float32)
    gaps = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    squares = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        x = load_tile(features_ptr, first + tl.minimum(rows, n - 1), offs_d, D)
        gap = tl.where((rows < n)[:, None], x - origin[None, :], 0.0)
        gaps += gap
        squares += gap * gap
    gap = tl.sum(gaps, axis=0) / n
    variance = tl.sum(squares, axis=0) / n - gap * gap
    variance = tl.where(variance < 0.0, 0.0, variance)  # unlike a maximum, lets NaN through
    tl.store(mean_ptr + problem * D + offs_d, origin + gap, mask=mask_d)
    tl.store(variance_ptr + problem * D + offs_d, variance, mask=mask_d)


@triton.jit(do_not_specialize=["center"])
def _trial_kernel(
    features_ptr,
    offsets_ptr,
    candidates_ptr,
    closest_ptr,
    left_ptr,
    center,
    K,
    D,
    T: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    problem = tl.program_id(1).to(tl.int64)
    first, n = problem_rows(offsets_ptr, problem)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    if tl.program_id(0) * BLOCK_N >= n:
        return
    trials = tl.arange(0, T)
    candidates = first + tl.load(candidates_ptr + (problem * K + center) * T + trials)

    # Differences, not expanded squares: a copy of a candidate is at distance 0 exactly.
    squares = tl.zeros((BLOCK_N, T, BLOCK_D), tl.float32)
    for start in tl.range(0, D, BLOCK_D, num_stages=STAGES):
        offs_d = start + tl.arange(0, BLOCK_D)
        x = load_tile(features_ptr, first + tl.minimum(rows, n - 1), offs_d, D)
        candidate = load_tile(features_ptr, candidates, offs_d, D)
        gap = x[:, None, :] - candidate[None, :, :]
        squares += gap * gap
    closest = tl.load(closest_ptr + first + rows, mask=rows < n, other=0.0)
    left = tl.minimum(tl.sum(squares, axis=2), closest[:, None])  # [BLOCK_N, T]
    tl.store(left_ptr + (first + rows)[:, None] * T + trials[None, :], left, mask=(rows < n)[:, None])


@triton.jit(do_not_specialize=["center"])
def _choose_kernel(
    offsets_ptr,
    uniforms_ptr,
    left_ptr,
    closest_ptr,
    candidates_ptr,
    chosen_ptr,
    center,
    K,
    TRIALS: tl.constexpr,
    T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    problem = tl.program_id(0).to(tl.int64)
    first, n = problem_rows(offsets_ptr, problem)
    trials = tl.arange(0, T)

    potentials = tl.zeros((T,), tl.float64)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        offs = (first + rows)[:, None] * T + trials[None, :]
        left = tl.load(left_ptr + offs, mask=(rows < n)[:, None], other=0.0)
        potentials += tl.sum(left.to(tl.float64), axis=0)
    potentials = tl.where(trials < TRIALS, potentials, float("inf"))
    best = tl.argmin(potentials, axis=0)
    candidate = tl.load(candidates_ptr + (problem * K + center) * T + best)
    tl.store(chosen_ptr + problem * K + center, candidate)
    if center + 1 == K:
        return

    draws = tl.load(uniforms_ptr + (center + 1) * T + trials) * tl.min(potentials, axis=0)
    reached = tl.zeros((), tl.float64)
    below = tl.zeros((T,), tl.int32)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        closest = tl.load(left_ptr + (first + rows) * T + best, mask=rows < n, other=0.0)
        tl.store(closest_ptr + first + rows, closest, mask=rows < n)
        sums = reached + tl.cumsum(closest.to(tl.float64), axis=0)
        below += tl.sum(((sums[:, None] < draws[None, :]) & (rows < n)[:, None]).to(tl.int32), axis=0)
        reached += tl.sum(closest.to(tl.float64), axis=0)
    tl.store(candidates_ptr + (problem * K + center + 1) * T + trials, tl.minimum(below, n - 1))


def center(features: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature of each problem.

    Args:
        features: float32 or float16 `[N, D]`, contiguous.
        offsets: int64 `[P + 1]`, on the device of the features.

    Returns:
        float32 `[P, D]` each; not finite where a problem's rows are not.
    """
    P, D = len(offsets) - 1, features.shape[1]
    mean, variance = torch.empty((2, P, D), dtype=torch.float32, device=features.device).unbind()
    grid = (triton.cdiv(D, CENTER_TILE["BLOCK_D"]), P)
    _center_kernel[grid](features, offsets, mean, variance, D, **CENTER_TILE)
    return mean, variance


def choose_rows(features: Tensor, offsets: Tensor, most_rows: int, uniforms: Tensor) -> Tensor:
    """Rows that start as centres, by greedy k-means++.

    Args:
        features: float32 or float16 `[N, D]`, contiguous.
        offsets: int64 `[P + 1]`, on the device of the features.
        most_rows: Rows of the largest problem.
        uniforms: float64 `[K, TRIALS]` on the CPU, between 0 and 1.

    Returns:
        int32 `[P, K]`, rows within their problems.
    """
    device = features.device
    P, D = len(offsets) - 1, features.shape[1]
    K, trials = uniforms.shape
    T = triton.next_power_of_2(trials)
    sizes = offsets.diff()  # [P]
    candidates = torch.empty((P, K, T), dtype=torch.int32, device=device)
    candidates[:, 0] = (uniforms[0, 0].item() * sizes).int().minimum(sizes - 1)[:, None]
    padded = torch.full((K, T), 0.5, dtype=torch.float64)
    padded[:, :trials] = uniforms
    padded = padded.to(device)
    closest = torch.full((len(features),), torch.inf, dtype=torch.float32, device=device)
    left = torch.empty((len(features), T), dtype=torch.float32, device=device)
    chosen = torch.empty((P, K), dtype=torch.int32, device=device)
    blocks = triton.cdiv(most_rows, TRIAL_TILE["BLOCK_N"])
    for c in range(K):
        _trial_kernel[(blocks, P)](features, offsets, candidates, closest, left, c, K, D, T=T, **TRIAL_TILE)
        _choose_kernel[(P,)](
            offsets, padded, left, closest, candidates, chosen, c, K, TRIALS=trials, T=T, **CHOOSE_TILE
        )
    return chosen
