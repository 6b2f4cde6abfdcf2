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


class Box(NamedTuple):
    """Rows top..bottom-1 and columns left..right-1."""

    top: int
    bottom: int
    left: int
    right: int


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

    Returns:
        The mixed batch.
    """
    lam = draw_beta(alpha, generator)
    partner = send(torch.randperm(len(images), generator=generator), images.device)
    if kind == "mixup":
        return Mix(lam * images + (1 - lam) * images[partner], partner, lam)
    height, width = images.shape[2:]
    box = draw_box(height, width, lam, generator)
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[:, :, rows, columns][partner]
    pasted = (box.bottom - box.top) * (box.right - box.left)
    return Mix(mixed, partner, 1 - pasted / (height * width))


def draw_box(height: int, width: int, lam: float, generator: torch.Generator) -> Box:
    """Draw CutMix's box: sides of sqrt(1 - lam) of the image's, centre uniform, clipped to the image.

    Args:
        height: H.
        width: W.
        lam: From 0 (the whole image) to 1 (nothing).
        generator: Source of random numbers, on the CPU.

    Returns:
        The box.
    """
    ratio = math.sqrt(1 - lam)
    half_height, half_width = int(height * ratio) // 2, int(width * ratio) // 2
    row = int(torch.randint(height, (), generator=generator))
    column = int(torch.randint(width, (), generator=generator))
    return Box(
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )


def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha).

    Args:
        alpha: Above 0.
        generator: Source of random numbers, on the CPU.

    Returns:
        A number from 0 to 1.
    """
    if alpha == 1:
        return float(torch.rand((), generator=generator, dtype=torch.float64))
    # Two Gamma(alpha) draws: a Beta is their share; torch's own sampler of it takes no generator.
    first, second = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator).tolist()
    return float(first / (first + second))
