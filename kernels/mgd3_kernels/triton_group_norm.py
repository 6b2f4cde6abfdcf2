"""Group normalisation as two Triton kernels; `mgd3_kernels.group_norm` documents it and checks its arguments.

Shape letters: B images, C channels, S = H W pixels, G groups of c channels.

The channels of a pixel lie together, and so do those of a group. Where c is no power of two, each group is
padded to one in registers. Imported only by a launch: importing it needs Triton.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers of a thread: two 16-byte accesses of a half-precision tensor.
_PER_THREAD = 16
# Parts of an image: their statistics are read again by every program that normalises. It does not depend on
# the number of images, so neither do the bytes of one.
_MOST_PARTS = 64


class Tile(NamedTuple):
    """What one program holds at a time: PIXELS pixels of GROUPS groups of WIDTH channels, both padded."""

    PIXELS: int
    GROUPS: int
    WIDTH: int
    num_warps: int


class Parts(NamedTuple):
    """How an image is divided: PARTS of part_pixels pixels, the last one shorter."""

    parts: int
    part_pixels: int


def tile_of(C: int, groups: int) -> Tile:
    """Choose the tile: four warps, or as many as a pixel needs."""
    G, width = triton.next_power_of_2(groups), triton.next_power_of_2(C // groups)
    num_warps = max(4, min(16, G * width // (32 * _PER_THREAD)))
    return Tile(max(1, 32 * num_warps * _PER_THREAD // (G * width)), G, width, num_warps)


def parts_of(S: int, tile: Tile) -> Parts:
    """Divide an image into whole tiles, as equally as they allow."""
    tiles = triton.cdiv(S, tile.PIXELS)
    part_pixels = triton.cdiv(tiles, min(tiles, _MOST_PARTS)) * tile.PIXELS
    return Parts(triton.cdiv(S, part_pixels), part_pixels)


# For `tl.reduce`: `tl.sum` is compiled code for good where Triton was loaded before its interpreter. That
# adds up by numpy where it meets this function, and by Python otherwise, which takes a second a tile.
_add = tl.standard._sum_combine


@triton.jit
def _channels(C: tl.constexpr, G: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """Channel of each column of a tile, and whether there is one."""
    column = tl.arange(0, GROUPS * WIDTH)
    if G * WIDTH == C:
        return column, column < C
    group, place = column // WIDTH, column % WIDTH
    return group * (C // G) + place, (group < G) & (place < C // G)


@triton.jit
def _statistics_kernel(
    x_ptr,
    shift_ptr,
    residual_ptr,
    means_ptr,
    squares_ptr,
    S,
    part_pixels,
    C: tl.constexpr,
    G: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Mean and summed squares about it of one part, by Welford (1962); adds shift and residual to x."""
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel, inside = _channels(C, G, GROUPS, WIDTH)
    start, end = part * part_pixels, tl.minimum((part + 1) * part_pixels, S)
    shift = tl.zeros([GROUPS * WIDTH], tl.float32)
    if shift_ptr is not None:
        shift += tl.load(shift_ptr + channel, mask=inside, other=0.0).to(tl.float32)

    count = tl.zeros([PIXELS], tl.float32)
    mean = tl.zeros([PIXELS, GROUPS * WIDTH], tl.float32)  # of the pixels that a lane has seen
    square = tl.zeros([PIXELS, GROUPS * WIDTH], tl.float32)
    for first in range(start, end, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        mask = (pixel < end)[:, None] & inside[None, :]
        offs = (image * S + pixel)[:, None] * C + channel[None, :]
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32) + shift[None, :]
        if residual_ptr is not None:
            residual = tl.load(residual_ptr + offs, mask=mask, other=0.0).to(tl.float32)
            stored = (x + residual).to(x_ptr.dtype.element_ty)
            tl.store(x_ptr + offs, stored, mask=mask)
            x = stored.to(tl.float32)
        count += tl.where(pixel < end, 1.0, 0.0)
        delta = tl.where(mask, x - mean, 0.0)
        mean += delta / tl.maximum(count, 1.0)[:, None]
        square += delta * tl.where(mask, x - mean, 0.0)

    total = (end - start) * (C // G)
    sums = tl.reshape(tl.reduce(mean * count[:, None], 0, _add), [GROUPS, WIDTH])
    group_mean = tl.reduce(sums, 1, _add) / total  # [GROUPS]
    spread = tl.reshape(tl.broadcast_to(group_mean[:, None], [GROUPS, WIDTH]), [GROUPS * WIDTH])
    apart = tl.where(inside[None, :], mean - spread[None, :], 0.0)
    square += apart * apart * count[:, None]
    squares = tl.reshape(tl.reduce(square, 0, _add), [GROUPS, WIDTH])
    group = tl.arange(0, GROUPS)
    place = (image * tl.num_programs(1) + part) * G + group
    tl.store(means_ptr + place, group_mean, mask=group < G)
    tl.store(squares_ptr + place, tl.reduce(squares, 1, _add), mask=group < G)


@triton.jit
def _normalise_kernel(
    x_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    means_ptr,
    squares_ptr,
    normed_ptr,
    eps,
    S,
    part_pixels,
    C: tl.constexpr,
    G: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    SILU: tl.constexpr,
):
    """Join the statistics of an image's parts (Chan et al. 1983), and normalise one part."""
    image, own = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel, inside = _channels(C, G, GROUPS, WIDTH)
    start, end = own * part_pixels, tl.minimum((own + 1) * part_pixels, S)

    part, group = tl.arange(0, PARTS), tl.arange(0, GROUPS)
    there = (part * part_pixels < S)[:, None] & (group < G)[None, :]
    place = (image * tl.num_programs(1) + part)[:, None] * G + group[None, :]
    means = tl.load(means_ptr + place, mask=there, other=0.0)
    squares = tl.load(squares_ptr + place, mask=there, other=0.0)
    pixels = tl.maximum(tl.minimum(S - part * part_pixels, part_pixels), 0).to(tl.float32)
    mean = tl.reduce(means * pixels[:, None], 0, _add) / S
    apart = tl.where(there, means - mean[None, :], 0.0)
    squares += apart * apart * pixels[:, None] * (C // G)
    deviation = tl.rsqrt(tl.reduce(squares, 0, _add) / S / (C // G) + eps)

    mean = tl.reshape(tl.broadcast_to(mean[:, None], [GROUPS, WIDTH]), [GROUPS * WIDTH])
    scale = tl.reshape(tl.broadcast_to(deviation[:, None], [GROUPS, WIDTH]), [GROUPS * WIDTH])
    scale *= tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    if shift_ptr is not None:
        mean -= tl.load(shift_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    for first in range(start, end, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        mask = (pixel < end)[:, None] & inside[None, :]
        offs = (image * S + pixel)[:, None] * C + channel[None, :]
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        y = (x - mean[None, :]) * scale[None, :] + bias[None, :]
        if SILU:
            y = y / (1.0 + tl.exp(-y))
        tl.store(normed_ptr + offs, y.to(normed_ptr.dtype.element_ty), mask=mask)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    shift: Tensor | None,
    residual: Tensor | None,
    normed: Tensor,
) -> None:
    """Launch both kernels on arguments that `mgd3_kernels.group_norm` has checked, on the device of x."""
    B, C, S = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    tile = tile_of(C, groups)
    parts, part_pixels = parts_of(S, tile)
    means = torch.empty(B, parts, groups, dtype=torch.float32, device=x.device)
    squares = torch.empty_like(means)
    sizes = {"C": C, "G": groups, **tile._asdict()}
    with torch.cuda.device_of(x) if x.is_cuda else nullcontext():
        _statistics_kernel[(B, parts)](x, shift, residual, means, squares, S, part_pixels, **sizes)
        # x holds the shift already where a residual was added.
        shift = None if residual is not None else shift
        _normalise_kernel[(B, parts)](
            x,
            shift,
            weight,
            bias,
            means,
            squares,
            normed,
            eps,
            S,
            part_pixels,
            PARTS=triton.next_power_of_2(parts),
            SILU=silu,
            **sizes,
        )
