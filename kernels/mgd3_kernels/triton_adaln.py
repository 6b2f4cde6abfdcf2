"""adaLN as one Triton kernel; `mgd3_kernels.adaln` documents it and checks its arguments.

Shape letters: N rows of a batch, T tokens of a row, d hidden size.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers of a thread: 16 bytes of a half-precision tensor.
_PER_THREAD = 8


class Tile(NamedTuple):
    """What one program computes: TOKENS whole tokens of one row, each padded to BLOCK numbers."""

    TOKENS: int
    BLOCK: int
    num_warps: int


def tile_of(d: int) -> Tile:
    """Choose the tile: one token where it fills a warp, as many as fill one where it does not."""
    block = max(16, triton.next_power_of_2(d))
    tokens = max(1, 32 * _PER_THREAD // block)
    return Tile(tokens, block, max(1, min(16, tokens * block // (32 * _PER_THREAD))))


@triton.jit
def _add(a, b):
    """For `tl.reduce`: `tl.sum` is compiled code for good where Triton was loaded before its interpreter."""
    return a + b


@triton.jit
def _adaln_kernel(
    tokens_ptr,
    gate_ptr,
    branch_ptr,
    shift_ptr,
    scale_ptr,
    normed_ptr,
    eps,
    T,
    d,
    stride_gate,
    stride_shift,
    stride_scale,
    RESIDUAL: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    offs_d = tl.arange(0, BLOCK)
    inside = offs_d < d
    mask = (token < T)[:, None] & inside[None, :]
    offs = (row * T + token)[:, None] * d + offs_d[None, :]

    x = tl.load(tokens_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        gate = tl.load(gate_ptr + row * stride_gate + offs_d, mask=inside, other=0.0).to(tl.float32)
        branch = tl.load(branch_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        stored = (x + gate[None, :] * branch).to(tokens_ptr.dtype.element_ty)
        tl.store(tokens_ptr + offs, stored, mask=mask)
        x = stored.to(tl.float32)

    mean = tl.reduce(x, 1, _add) / d
    centred = tl.where(inside[None, :], x - mean[:, None], 0.0)
    variance = tl.reduce(centred * centred, 1, _add) / d
    normed = centred * tl.rsqrt(variance + eps)[:, None]
    scale = tl.load(scale_ptr + row * stride_scale + offs_d, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + row * stride_shift + offs_d, mask=inside, other=0.0).to(tl.float32)
    normed = normed * (1.0 + scale)[None, :] + shift[None, :]
    tl.store(normed_ptr + offs, normed.to(normed_ptr.dtype.element_ty), mask=mask)


def launch(
    tokens: Tensor,
    gate: Tensor | None,
    branch: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    normed: Tensor,
    eps: float,
) -> None:
    """Launch the kernel on arguments that `mgd3_kernels.adaln` has checked, on the device of tokens."""
    N, T, d = tokens.shape
    tile = tile_of(d)
    with torch.cuda.device_of(tokens) if tokens.is_cuda else nullcontext():
        _adaln_kernel[(N, triton.cdiv(T, tile.TOKENS))](
            tokens,
            gate,
            branch,
            shift,
            scale,
            normed,
            eps,
            T,
            d,
            0 if gate is None else gate.stride(0),
            shift.stride(0),
            scale.stride(0),
            RESIDUAL=gate is not None,
            TOKENS=tile.TOKENS,
            BLOCK=tile.BLOCK,
            num_warps=tile.num_warps,
            enable_fp_fusion=True,
        )
