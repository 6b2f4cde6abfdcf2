"""Quantising of tokens as one Triton kernel; `mgd3_kernels.quantise` documents it and checks its arguments.

Shape letters: N rows of a batch, T tokens of a row, h heads, e numbers of a head, d = h e.

Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from mgd3_kernels.quantise import GELU_CUBIC, GELU_LINEAR, LARGEST, SMALLEST_SCALE, QuantisedRows
from mgd3_kernels.tiles import Tile, tile_of

_PER_LARGEST = tl.constexpr(1 / LARGEST)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)
# sigmoid(u) = 1 / (1 + 2^(-u log2 e))
_GELU_LINEAR = tl.constexpr(-GELU_LINEAR * math.log2(math.e))
_GELU_CUBIC = tl.constexpr(-GELU_CUBIC * math.log2(math.e))


@triton.jit
def _larger(a, b):
    """For `tl.reduce`: `tl.max` forgets a NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest_of(values):
    """The largest absolute value of each of `[TOKENS, BLOCK]` rows."""
    return tl.reduce(tl.abs(values), 1, _larger)


@triton.jit
def scale_of(largest):
    """The scale of rows whose largest absolute values are given, and what to multiply them with."""
    scale = _larger(largest * _PER_LARGEST, tl.full(largest.shape, _SMALLEST_SCALE, tl.float32))
    return scale, tl.div_rn(tl.full(largest.shape, 1.0, tl.float32), scale)


@triton.jit
def store_rows(rows_ptr, quotients, token, offs_d, here, d):
    """Store a piece of contiguous tokens, rounded to the 8 bits of the target."""
    # Eight at a time, as they lie in the threads that read 16 bytes: a wider store takes all numbers through
    # shared memory, 24 barriers where there are 7.
    offs_d = offs_d // 8 * 8 + offs_d % 8
    mask = here[:, None] & (offs_d < d)[None, :]
    rounded = quotients.to(rows_ptr.dtype.element_ty)
    tl.store(rows_ptr + token[:, None] * d + offs_d[None, :], rounded, mask=mask)


@triton.jit
def _values(values_ptr, start, offs_d, here, d, stride_head, GELU: tl.constexpr, E: tl.constexpr):
    """Read a piece of each token, wherever its heads lie, as the float32 values to quantise."""
    offs = start[:, None] + ((offs_d // E).to(tl.int64) * stride_head + offs_d % E)[None, :]
    mask = here[:, None] & (offs_d < d)[None, :]
    x = tl.load(values_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        # Two products with a root are two instructions a number less than a quotient, of eighteen.
        root = tl.rsqrt(1 + tl.exp2(x * (_GELU_LINEAR + _GELU_CUBIC * x * x)))
        x = x * root * root
    return x


@triton.jit
def _quantise_kernel(
    values_ptr,
    rows_ptr,
    row_scale_ptr,
    T,
    d,
    tiles,
    stride_row,
    stride_token,
    stride_head,
    GELU: tl.constexpr,
    E: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
):
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = (tl.program_id(0) % tiles) * TOKENS + tl.arange(0, TOKENS)
    here = token < T
    start = row * stride_row + token.to(tl.int64) * stride_token
    token = row * T + token

    offs_d = tl.arange(0, BLOCK)
    x = _values(values_ptr, start, offs_d, here, d, stride_head, GELU, E)
    largest = largest_of(x)
    if TAIL > 0:
        tail_d = BLOCK + tl.arange(0, TAIL)
        tail = _values(values_ptr, start, tail_d, here, d, stride_head, GELU, E)
        largest = _larger(largest, largest_of(tail))

    scale, inverse = scale_of(largest)
    tl.store(row_scale_ptr + token, scale, mask=here)
    store_rows(rows_ptr, x * inverse[:, None], token, offs_d, here, d)
    if TAIL > 0:
        store_rows(rows_ptr, tail * inverse[:, None], token, tail_d, here, d)


def launch(heads: Tensor, quantised: QuantisedRows, gelu: bool, tile: Tile | None = None) -> None:
    """Launch the kernel on `[N, T, h, e]` heads that `mgd3_kernels.quantise` has checked."""
    N, T, h, e = heads.shape
    tile = tile or tile_of(T, h * e, tail=True)
    tiles = triton.cdiv(T, tile.TOKENS)
    with torch.cuda.device_of(heads) if heads.is_cuda else nullcontext():
        _quantise_kernel[(N * tiles,)](
            heads,
            quantised.rows,
            quantised.scale,
            T,
            h * e,
            tiles,
            *heads.stride()[:3],
            GELU=gelu,
            E=e,
            TOKENS=tile.TOKENS,
            BLOCK=tile.BLOCK,
            TAIL=tile.TAIL,
            num_warps=tile.num_warps,
            enable_fp_fusion=True,
        )
