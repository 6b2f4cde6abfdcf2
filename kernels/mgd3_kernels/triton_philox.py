"""Philox4x32-10 and Box-Muller for Triton kernels: the integers of `philox`, the transform in float32.

Imported only by a launch: importing it needs Triton.
"""

# Triton compiles these functions from their source; it has no types for mypy to check.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mgd3_kernels import philox

_MULTIPLIER_0 = tl.constexpr(philox.MULTIPLIER_0)
_MULTIPLIER_1 = tl.constexpr(philox.MULTIPLIER_1)
_WEYL_0 = tl.constexpr(philox.WEYL_0)
_WEYL_1 = tl.constexpr(philox.WEYL_1)
_WORD = tl.constexpr(2.0**-32)
_RADIANS = tl.constexpr(2.0 * math.pi * 2.0**-32)


@triton.jit
def philox_words(c0, c1, c2, c3, key_0, key_1):
    """One Philox4x32-10 block for each element; all uint32, the counter words of one shape."""
    multiplier_0 = tl.full(c0.shape, _MULTIPLIER_0, tl.uint32)
    multiplier_1 = tl.full(c0.shape, _MULTIPLIER_1, tl.uint32)
    for _ in tl.static_range(10):
        high_0, low_0 = tl.umulhi(c0, multiplier_0), c0 * multiplier_0
        high_1, low_1 = tl.umulhi(c2, multiplier_1), c2 * multiplier_1
        c0, c1, c2, c3 = high_1 ^ c1 ^ key_0, low_1, high_0 ^ c3 ^ key_1, low_0
        key_0 += tl.full((), _WEYL_0, tl.uint32)
        key_1 += tl.full((), _WEYL_1, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def box_muller(word_r, word_a):
    """Two float32 normals from two uint32 words, u = (word + 1/2) / 2**32."""
    # Near u = 1 a float32 u has lost the digits that ln u needs, so 1 - u comes from the complement of the
    # word and what rounding 1 - (1 - u) lost is added back: ln u = ln w + ((1 - w) - (1 - u)).
    below_half = word_r < 0x80000000
    rest = ((word_r ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * _WORD
    u = tl.where(below_half, (word_r.to(tl.float32) + 0.5) * _WORD, 1.0 - rest)
    log_u = tl.log(u) + tl.where(below_half, 0.0, (1.0 - u) - rest)
    radius = tl.sqrt(-2.0 * log_u)

    # The quadrant is taken off in integers, exactly, which leaves |angle| <= pi / 4 for Taylor polynomials
    # (truncation below 2e-9); tl.cos would bring its reduction of huge arguments, with stack memory.
    quadrant = (word_a + 0x20000000) >> 30
    angle = ((word_a - (quadrant << 30)).to(tl.int32, bitcast=True).to(tl.float32) + 0.5) * _RADIANS
    t = angle * angle
    sine = angle * (1 + t * (-1 / 6 + t * (1 / 120 + t * (-1 / 5040 + t * (1 / 362880)))))
    cosine = 1 + t * (-1 / 2 + t * (1 / 24 + t * (-1 / 720 + t * (1 / 40320 + t * (-1 / 3628800)))))
    odd = (quadrant & 1) == 1
    z_cos = tl.where(odd, sine, cosine) * tl.where(((quadrant + 1) & 2) == 2, -radius, radius)
    z_sin = tl.where(odd, cosine, sine) * tl.where((quadrant & 2) == 2, -radius, radius)
    return z_cos, z_sin


@triton.jit
def philox_normal_tile(first_block, seed, step, stream, BLOCK: tl.constexpr):
    """`BLOCK` consecutive float32 normals of an image, from Philox block `first_block` on (4 a block)."""
    block = (first_block + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zero = tl.full(block.shape, 0, tl.uint32)
    key_0 = seed.to(tl.uint32)
    key_1 = (seed >> 32).to(tl.uint32)
    r0, r1, r2, r3 = philox_words(block, zero + step, zero + stream, zero, key_0, key_1)
    z0, z1 = box_muller(r0, r1)
    z2, z3 = box_muller(r2, r3)
    # [BLOCK // 4, 2, 2], last two indices (j, k) holding z_{2j + k}.
    return tl.reshape(tl.join(tl.join(z0, z2), tl.join(z1, z3)), (BLOCK,))


@triton.jit
def _philox4x32_kernel(counter_ptr, key_ptr, words_ptr, N, BLOCK: tl.constexpr):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < N
    c0 = tl.load(counter_ptr + offs * 4, mask=mask).to(tl.uint32)
    c1 = tl.load(counter_ptr + offs * 4 + 1, mask=mask).to(tl.uint32)
    c2 = tl.load(counter_ptr + offs * 4 + 2, mask=mask).to(tl.uint32)
    c3 = tl.load(counter_ptr + offs * 4 + 3, mask=mask).to(tl.uint32)
    key_0 = tl.load(key_ptr + offs * 2, mask=mask).to(tl.uint32)
    key_1 = tl.load(key_ptr + offs * 2 + 1, mask=mask).to(tl.uint32)
    r0, r1, r2, r3 = philox_words(c0, c1, c2, c3, key_0, key_1)
    tl.store(words_ptr + offs * 4, r0.to(tl.int64), mask=mask)
    tl.store(words_ptr + offs * 4 + 1, r1.to(tl.int64), mask=mask)
    tl.store(words_ptr + offs * 4 + 2, r2.to(tl.int64), mask=mask)
    tl.store(words_ptr + offs * 4 + 3, r3.to(tl.int64), mask=mask)


@triton.jit
def _box_muller_kernel(words_ptr, normals_ptr, N, BLOCK: tl.constexpr):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < N
    word_r = tl.load(words_ptr + offs * 2, mask=mask).to(tl.uint32)
    word_a = tl.load(words_ptr + offs * 2 + 1, mask=mask).to(tl.uint32)
    z_cos, z_sin = box_muller(word_r, word_a)
    tl.store(normals_ptr + offs * 2, z_cos, mask=mask)
    tl.store(normals_ptr + offs * 2 + 1, z_sin, mask=mask)


def philox4x32_on_device(counter: Tensor, key: Tensor) -> Tensor:
    """The kernels' Philox4x32-10 by itself, to hold against `philox.philox4x32`.

    Args:
        counter: int64 `[N, 4]`, contiguous, words 0..2**32-1.
        key: int64 `[N, 2]`, contiguous, words 0..2**32-1.

    Returns:
        int64 `[N, 4]`.
    """
    words = torch.empty_like(counter)
    _philox4x32_kernel[(triton.cdiv(len(counter), 128),)](counter, key, words, len(counter), BLOCK=128)
    return words


def box_muller_on_device(words: Tensor) -> Tensor:
    """The kernels' float32 Box-Muller transform by itself, to hold against float64.

    Args:
        words: int64 `[N, 2]`, contiguous: radius word and angle word, 0..2**32-1.

    Returns:
        float32 `[N, 2]`: R cos a and R sin a.
    """
    normals = torch.empty(words.shape, dtype=torch.float32, device=words.device)
    _box_muller_kernel[(triton.cdiv(len(words), 1024),)](words, normals, len(words), BLOCK=1024)
    return normals
