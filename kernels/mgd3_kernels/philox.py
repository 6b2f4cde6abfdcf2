"""Counter-based normal noise in plain torch: Philox4x32-10 and Box-Muller.

Shape letters: N images, C channels, H W latent size, D = C*H*W.

The noise of an image is a pure function of (its seed, step, stream, element), so it does not depend on what
shares its batch, on order, or on the device. The Triton kernels draw the same integers (`triton_philox`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Salmon et al. 2011, Table 2 and section 3.3: round multipliers and Weyl key increments of Philox4x32.
MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
WEYL_0 = 0x9E3779B9
WEYL_1 = 0xBB67AE85

_MASK = 0xFFFFFFFF


def _multiply_high_low(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32x32-bit product, in int64.

    The product itself may exceed a signed int64. With M = 2**32 + (M - 2**32) and both multipliers above
    2**31, the second part times the word stays below 2**62 and the first only adds the word to the high half.
    """
    product = word * (multiplier - 2**32)
    return (product >> 32) + word, product & _MASK


def _philox_words(
    words: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor], rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 over word tensors that broadcast against each other."""
    c0, c1, c2, c3 = words
    k0, k1 = key
    for _ in range(rounds):
        high_0, low_0 = _multiply_high_low(c0, MULTIPLIER_0)
        high_1, low_1 = _multiply_high_low(c2, MULTIPLIER_1)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + WEYL_0) & _MASK, (k1 + WEYL_1) & _MASK
    return c0, c1, c2, c3


def philox4x32(counter: Tensor, key: Tensor, rounds: int = 10) -> Tensor:
    """Encrypt counters to random words with Philox4x32.

    One round maps (c0, c1, c2, c3) to (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)) and
    bumps the key by the Weyl constants (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Args:
        counter: int64 `[..., 4]`, words 0..2**32-1.
        key: int64 `[..., 2]`, words 0..2**32-1; leading dimensions broadcast against the counter's.
        rounds: number of rounds, at least 1.

    Returns:
        int64 `[..., 4]`, words 0..2**32-1.

    Raises:
        ValueError: a tensor is not int64 or its last dimension is wrong, or `rounds` is below 1.
    """
    for name, tensor, size in (("counter", counter, 4), ("key", key, 2)):
        if tensor.dtype != torch.int64 or tensor.ndim < 1 or tensor.shape[-1] != size:
            raise ValueError(f"{name} must be int64 [..., {size}], got {tensor.dtype} {list(tensor.shape)}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    leading = (counter[..., 0] ^ key[..., 0]).shape
    c0, c1, c2, c3 = counter.expand(*leading, 4).unbind(-1)
    k0, k1 = key.expand(*leading, 2).unbind(-1)
    return torch.stack(_philox_words((c0, c1, c2, c3), (k0, k1), rounds), dim=-1)


def _box_muller(word_r: Tensor, word_a: Tensor) -> Tensor:
    """Two normals, along a new last dimension, from each pair of words, in float64 (Box, Muller 1958)."""
    # u = (word + 1/2) / 2**32 is never 0 or 1.
    radius = torch.sqrt(-2.0 * torch.log(word_r.double() * 2.0**-32 + 2.0**-33))
    angle = word_a.double() * (2.0 * math.pi * 2.0**-32) + 2.0 * math.pi * 2.0**-33
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)


def philox_normal(seeds: Tensor, step: int | Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """Standard normal noise for each image from its own 64-bit seed.

    Element e (C order) is lane e % 4 of block e // 4; the block's four words are
    Philox4x32-10(counter = (block, step, stream, 0), key = (low, high word of the seed)), and
    (r0, r1) -> z0 = R cos a, z1 = R sin a, likewise (r2, r3) -> z2, z3, with R = sqrt(-2 ln u0), a = 2 pi u1.

    Args:
        seeds: int64 or uint64 `[N]`; the 64-bit pattern is the key.
        step: counter word 1, 0..2**32-1; a tensor of one element is read without leaving its device.
        shape: shape of one image, usually `(C, H, W)`.
        stream: counter word 2, 0..2**32-1, for independent noise at equal seed and step.

    Returns:
        float32 `[N, *shape]` on the device of `seeds`: computed in float64 and rounded once.

    Raises:
        ValueError: `seeds` is not one-dimensional 64-bit, or a counter word is out of range.
    """
    if seeds.ndim != 1 or seeds.dtype not in (torch.int64, torch.uint64):
        raise ValueError(f"seeds must be int64 or uint64 [N], got {seeds.dtype} {list(seeds.shape)}")
    for name, word in (("step", step), ("stream", stream)):
        if isinstance(word, int) and not 0 <= word <= _MASK:
            raise ValueError(f"{name} must be from 0 to 2**32-1, got {word}")
    count = math.prod(shape)  # D
    device = seeds.device
    pattern = seeds.view(torch.int64)[:, None]  # [N, 1]
    key = (pattern & _MASK, (pattern >> 32) & _MASK)
    block = torch.arange((count + 3) // 4, dtype=torch.int64, device=device)[None]  # [1, ceil(D / 4)]
    word_1 = torch.as_tensor(step, dtype=torch.int64, device=device).reshape(1, 1)
    word_2 = torch.full((1, 1), stream, dtype=torch.int64, device=device)
    word_3 = torch.zeros((1, 1), dtype=torch.int64, device=device)
    r0, r1, r2, r3 = _philox_words((block, word_1, word_2, word_3), key, rounds=10)
    normals = _box_muller(torch.stack((r0, r2), -1), torch.stack((r1, r3), -1))  # [N, ceil(D / 4), 2, 2]
    return normals.flatten(1)[:, :count].float().reshape(len(seeds), *shape)
