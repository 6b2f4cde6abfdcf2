"""GLaD's augmentation (DSA, Zhao & Bilen 2021): one kind of random change per batch, amounts per image.

It sees normalised images, so that what is cut out or comes in from outside is ImageNet's mean colour.

Shape letters: B images, R their side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mgd3_fast.evaluate.geometry import shift_maps
from mgd3_fast.evaluate.sending import send

Change = Callable[[Tensor, torch.Generator], Tensor]

_SCALE = 1.2
_ROTATION_DEG = 15.0
_CROP_SHARE = 0.125
_CUTOUT_SHARE = 0.5
_BRIGHTNESS, _SATURATION, _CONTRAST = 1.0, 2.0, 0.5


def augment_siamese(images: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Change a batch in one of six ways, each as likely: colour, crop, cutout, flip, scale, rotate.

    Args:
        images: float32 `[B, 3, R, R]`, normalised.
        flip: Whether flip is among the ways (not for digits).
        generator: Source of random numbers, on the CPU.
    """
    names = [name for name in CHANGES if flip or name != "flip"]
    chosen = names[int(torch.randint(len(names), (), generator=generator))]
    return CHANGES[chosen](images, generator)


def _colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift brightness by up to 1/2, scale saturation by 0..2, then contrast by 0.5..1.5."""
    brightness, saturation, contrast = _uniform(images, 3, generator)
    images = images + (brightness - 0.5) * _BRIGHTNESS
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (saturation * _SATURATION) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    changed: Tensor = (images - mean) * (contrast + _CONTRAST) + mean
    return changed


def _crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to an eighth of the side each way."""
    side = images.shape[-1]
    return shift_maps(len(images), side, int(side * _CROP_SHARE + 0.5), generator).apply(images)


def _cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    """Put zeros into a square of half the side, centre uniform, clipped to the image."""
    kept = []
    for axis in (2, 3):
        side = images.shape[axis]
        length = int(side * _CUTOUT_SHARE + 0.5)
        centres = torch.randint(side + 1 - length % 2, (len(images), 1), generator=generator)
        start = centres - length // 2
        places = torch.arange(side)
        kept.append(send((places < start) | (places >= start + length), images.device))
    rows, columns = kept
    return images * (rows[:, None, :, None] | columns[:, None, None, :])


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    (chance,) = _uniform(images, 1, generator)
    return torch.where(chance < 0.5, images.flip(3), images)


def _scale(images: Tensor, generator: torch.Generator) -> Tensor:
    """Sample at coordinates scaled by 1/1.2..1.2, independently across and down."""
    low = 1 / _SCALE
    factors = torch.rand(len(images), 2, generator=generator) * (_SCALE - low) + low
    return _sampled(images, torch.diag_embed(factors))


def _rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 15 degrees either way."""
    angle = (torch.rand(len(images), generator=generator) * 2 - 1) * math.radians(_ROTATION_DEG)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
    return _sampled(images, turn.view(-1, 2, 2))


CHANGES: dict[str, Change] = {
    "colour": _colour,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def _uniform(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Numbers in 0..1 for each image, `[count, B, 1, 1, 1]` on the images' device."""
    return send(torch.rand(count, len(images), 1, 1, 1, generator=generator), images.device)


def _sampled(images: Tensor, matrices: Tensor) -> Tensor:
    maps = send(F.pad(matrices, (0, 1)), images.device)  # [B, 2, 3], no shift
    grid = F.affine_grid(maps, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)
