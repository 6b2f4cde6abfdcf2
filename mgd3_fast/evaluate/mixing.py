"""CutMix and mixup of a batch.

Shape letters: B images, H W their size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mgd3_fast.evaluate.sending import send


class Mix(NamedTuple):
    """A batch after mixing.

    Args:
        images: float32 `[B, 3, H, W]`.
        partner: int64 `[B]`, which image of the batch each was mixed with; on the images' device.
        share: Share of each image that is its own, from 0 to 1.
    """

    images: Tensor
    partner: Tensor
    share: float


def mix(images: Tensor, kind: str, alpha: float, generator: torch.Generator) -> Mix:
    """Mix every image with another one of the batch.

    lam ~ Beta(alpha, alpha), one for the batch, and one random permutation. "cutmix" pastes one box, at the
    same place of every image, whose area is 1 - lam before it is clipped (Yun et al. 2019); `share` is what
    is really left. "mixup" averages: lam x + (1 - lam) x' (Zhang et al. 2018).

    Args:
        images: float32 `[B, 3, H, W]`; not changed.
        kind: "cutmix" or "mixup".
        alpha: Parameter of the Beta distribution, above 0.
        generator: Source of random numbers, on the CPU.
    """
    lam = draw_beta(alpha, generator)
    partner = send(torch.randperm(len(images), generator=generator), images.device)
    if kind == "mixup":
        return Mix(lam * images + (1 - lam) * images[partner], partner, lam)
    height, width = images.shape[2:]
    rows, columns = draw_box(height, width, lam, generator)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[:, :, rows, columns][partner]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mix(mixed, partner, 1 - pasted / (height * width))


def draw_box(height: int, width: int, lam: float, generator: torch.Generator) -> tuple[slice, slice]:
    """Draw rows and columns of CutMix's box: sides of sqrt(1 - lam) of the image's, centre uniform, clipped.

    Args:
        height: H.
        width: W.
        lam: From 0 (the whole image) to 1 (nothing).
        generator: Source of random numbers, on the CPU.
    """
    ratio = math.sqrt(1 - lam)
    spans = []
    for side in (height, width):
        half, centre = int(side * ratio) // 2, int(torch.randint(side, (), generator=generator))
        spans.append(slice(max(centre - half, 0), min(centre + half, side)))
    rows, columns = spans
    return rows, columns


def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha), alpha above 0: a number from 0 to 1."""
    if alpha == 1:
        return float(torch.rand((), generator=generator, dtype=torch.float64))
    # Two Gamma(alpha) draws: a Beta is their share; torch's own sampler of it takes no generator.
    first, second = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator).tolist()
    return float(first / (first + second))
