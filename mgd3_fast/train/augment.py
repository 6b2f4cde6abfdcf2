"""Random geometric changes of training images, each drawn from a given generator.

Shape letters: B images, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class _Ranges:
    """How far each change goes, either way."""

    flip: bool = False
    shift: float = 0.0  # share of the side
    rotation_deg: float = 0.0
    scale: float = 0.0
    shear: float = 0.0


_RANGES = {
    "none": _Ranges(),
    "flip": _Ranges(flip=True),
    "shift": _Ranges(shift=1 / 16),
    "affine": _Ranges(shift=1 / 32, rotation_deg=8.0, scale=0.08, shear=0.08),
}


def augment(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Move, turn or mirror each image by its own random amounts; what comes into view repeats the border.

    `flip` mirrors left to right with probability 1/2; `shift` moves by up to 1/16 of the side; `affine`
    moves by up to 1/32 of the side, turns by up to 8 degrees, scales and shears by up to 8%.

    Args:
        images: uint8 `[B, 3, H, W]`.
        name: A name of `mgd3_fast.config.train.AUGMENTATIONS`.
        generator: Source of the random numbers, on the CPU.

    Returns:
        uint8 `[B, 3, H, W]` on the images' device; `images` itself for "none".
    """
    ranges = _RANGES[name]
    if ranges == _RANGES["none"]:
        return images
    B = images.shape[0]
    if name == "flip":
        mirrored = (torch.rand(B, generator=generator) < 0.5).to(images.device)
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)
    maps = _affine_maps(ranges, B, generator).to(images.device)
    grid = F.affine_grid(maps, [B, 1, *images.shape[2:]], align_corners=False)  # [B, H, W, 2]
    moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8)


def _affine_maps(ranges: _Ranges, count: int, generator: torch.Generator) -> Tensor:
    """Draw `[B, 2, 3]` maps from output to input coordinates, which run from -1 to 1."""
    uniform = torch.rand(count, 5, generator=generator) * 2 - 1
    angle = uniform[:, 0] * math.radians(ranges.rotation_deg)
    scale = 1 + uniform[:, 1] * ranges.scale
    shear = uniform[:, 2] * ranges.shear
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
    slant = torch.eye(2).repeat(count, 1, 1)
    slant[:, 0, 1] = shear
    offset = uniform[:, 3:, None] * (2 * ranges.shift)
    return torch.cat([turn @ slant, offset], 2)
