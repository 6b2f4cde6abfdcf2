"""adaLN as one Triton kernel; `mgd3_kernels.adaln` documents it and checks its arguments.

Shape letters: N rows of a batch, T tokens of a row, d hidden size.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from mgd3_kernels.tiles import Tile, tile_of
from mgd3_kernels.triton_quantise import largest_of, scale_of, store_rows


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
    row_scale_ptr,
    eps,
    T,
    d,
    tiles,
    stride_gate,
    stride_shift,
    stride_scale,
    RESIDUAL: tl.constexpr,
    QUANTISE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Programs that run at one time are of few rows, whose modulation the nearest cache then holds.
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = (tl.program_id(0) % tiles) * TOKENS + tl.arange(0, TOKENS)
    offs_d = tl.arange(0, BLOCK)
    here, inside = token < T, offs_d < d
    mask = here[:, None] & inside[None, :]
    token = row * T + token
    offs = token[:, None] * d + offs_d[None, :]

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
    scale = 1 + tl.load(scale_ptr + row * stride_scale + offs_d, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + row * stride_shift + offs_d, mask=inside, other=0.0).to(tl.float32)
    normed = (normed * scale[None, :] + shift[None, :]).to(tokens_ptr.dtype.element_ty)

    if QUANTISE:  # what would have been stored
        values = normed.to(tl.float32)
        row_scale, inverse = scale_of(largest_of(values))
        tl.store(row_scale_ptr + token, row_scale, mask=here)
        store_rows(normed_ptr, values * inverse[:, None], token, offs_d, here, d)
    else:
        tl.store(normed_ptr + offs, normed, mask=mask)


def launch(
    tokens: Tensor,
    gate: Tensor | None,
    branch: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    normed: Tensor,
    row_scale: Tensor | None,
    eps: float,
    tile: Tile | None = None,
) -> None:
    """Launch the kernel on arguments that `mgd3_kernels.adaln` has checked, on the device of tokens."""
    N, T, d = tokens.shape
    tile = tile or tile_of(T, d)
    tiles = triton.cdiv(T, tile.TOKENS)
    with torch.cuda.device_of(tokens) if tokens.is_cuda else nullcontext():
        _adaln_kernel[(N * tiles,)](
            tokens,
            gate,
            branch,
            shift,
            scale,
            normed,
            row_scale,
            eps,
            T,
            d,
            tiles,
            0 if gate is None else gate.stride(0),
            shift.stride(0),
            scale.stride(0),
            RESIDUAL=gate is not None,
            QUANTISE=row_scale is not None,
            TOKENS=tile.TOKENS,
            BLOCK=tile.BLOCK,
            num_warps=tile.num_warps,
            enable_fp_fusion=True,
        )
