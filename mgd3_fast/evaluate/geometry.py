"""Crops, patch shuffles, flips and shifts of a batch, each image by its own random amounts.

All of these move rows and columns independently, so each image's change is a pair of matrices:
out = A x B^T with A [R, H] for its rows and B [R, W] for its columns. A batch is two batched products, and a
resized pixel is the same weighted sum that a resize of the crop alone would take.

Shape letters: B images, H W their size, R side of the result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ASPECTS = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class Boxes(NamedTuple):
    """Crop boxes, each int64 `[B]`."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def to(self, device: torch.device) -> Boxes:
        """The same boxes on a device, where their maps are then made."""
        return Boxes(*(one.to(device) for one in self))


class AxisMaps(NamedTuple):
    """Row matrices float32 `[B, R, H]` and column matrices `[B, R, W]` of a batch."""

    rows: Tensor
    columns: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Change images float32 [B, 3, H, W] into [B, 3, R, R]."""
        rows, columns = (maps.unsqueeze(1) for maps in self)  # [B, 1, R, H], [B, 1, R, W]
        return rows @ images @ columns.transpose(2, 3)


def draw_boxes(
    count: int, height: int, width: int, area: tuple[float, float], generator: torch.Generator
) -> Boxes:
    """Draw crop boxes as torchvision's RandomResizedCrop does.

    Share of the area uniform in `area`, logarithm of the aspect ratio uniform between 3/4 and 4/3; the first
    of ten attempts that fits is taken, else the largest centred box whose aspect is in that range.

    Args:
        count: B.
        height: H.
        width: W.
        area: Smallest and largest share of the image's area, in (0, 1].
        generator: Source of random numbers, on the CPU.

    Returns:
        Boxes inside the image.
    """
    uniform = torch.rand(count, _ATTEMPTS, 2, generator=generator, dtype=torch.float64)
    areas = height * width * (area[0] + (area[1] - area[0]) * uniform[..., 0])
    low, high = (math.log(aspect) for aspect in _ASPECTS)
    aspects = torch.exp(low + (high - low) * uniform[..., 1])
    widths = (areas * aspects).sqrt().round().long()  # [B, 10]
    heights = (areas / aspects).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)  # [B, 1], the first attempt that fits
    fallback_height, fallback_width = _largest_box(height, width)
    fitting = fits.any(1)
    box_height = torch.where(fitting, heights.gather(1, first)[:, 0], fallback_height)
    box_width = torch.where(fitting, widths.gather(1, first)[:, 0], fallback_width)
    places = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    top = torch.where(
        fitting, (places[:, 0] * (height - box_height + 1)).long(), (height - fallback_height) // 2
    )
    left = torch.where(
        fitting, (places[:, 1] * (width - box_width + 1)).long(), (width - fallback_width) // 2
    )
    return Boxes(top, left, box_height, box_width)


def crop_maps(boxes: Boxes, height: int, width: int, size: int) -> AxisMaps:
    """Cut boxes out and resize them bilinearly, with antialiasing where a box shrinks.

    Args:
        boxes: B boxes, on the device that the maps are wanted on.
        height: H.
        width: W.
        size: R.

    Returns:
        Maps from images to resized crops.
    """
    return AxisMaps(
        resize_maps(boxes.top, boxes.height, height, size), resize_maps(boxes.left, boxes.width, width, size)
    )


def resize_maps(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Weights of a bilinear resize along one axis, pixel centres at i + 1/2, nothing read outside the box.

    Weight of input i for output j: max(0, 1 - |i + 1/2 - (j + 1/2) s| / max(s, 1)), s = length / size,
    normalised to add up to 1 over the box (Pillow's and torchvision's antialiased bilinear filter).

    Args:
        start: int64 `[B]`, first pixel of each box.
        length: int64 `[B]`, its pixels.
        side: Pixels of the whole axis.
        size: R.

    Returns:
        float32 `[B, R, side]`.
    """
    scale = (length.double() / size)[:, None, None]
    places = torch.arange(size, dtype=torch.float64, device=start.device)
    outputs = (places[None, :, None] + 0.5) * scale  # [B, R, 1]
    inputs = torch.arange(side, device=start.device) - start[:, None, None]  # [B, 1, side], from the box on
    weights = (1 - (inputs + 0.5 - outputs).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((inputs >= 0) & (inputs < length[:, None, None]))
    return (weights / weights.sum(2, keepdim=True)).float()


def shift_maps(
    count: int, side: int, margin: int, generator: torch.Generator, device: torch.device | None = None
) -> AxisMaps:
    """Shift by up to `margin` pixels each way, zeros coming in: a random crop of the padded image.

    Args:
        count: B.
        side: R, of the square images and of the result.
        margin: Pixels of padding.
        generator: Source of random numbers, on the CPU.
        device: Where the maps are wanted; the CPU by default.

    Returns:
        Maps whose entries are 0 and 1.
    """
    shifts = torch.randint(-margin, margin + 1, (2, count, 1, 1), generator=generator).to(device)
    places = torch.arange(side, device=device)
    matches = places[None, None, :, None] + shifts == places  # [2, B, R, R]
    rows, columns = matches.float()
    return AxisMaps(rows, columns)


def shuffle_patches(maps: AxisMaps, factor: int, generator: torch.Generator) -> AxisMaps:
    """Let maps see images whose `factor` x `factor` patches are shuffled as RDED does.

    Columns of patches are put in random order, then rows of patches. The last patch of an axis takes what
    does not divide.

    Args:
        maps: What comes after the shuffle.
        factor: Patches a side; 1 is no shuffle.
        generator: Source of random numbers, on the CPU.

    Returns:
        Maps that shuffle first.
    """
    if factor == 1:
        return maps
    rows, columns = (_shuffled(axis, factor, generator) for axis in maps)
    return AxisMaps(rows, columns)


def flip_half(maps: AxisMaps, generator: torch.Generator) -> AxisMaps:
    """Mirror each image left to right with probability 1/2, after what `maps` do."""
    mirrored = (torch.rand(len(maps.columns), generator=generator) < 0.5).to(maps.columns.device)
    return AxisMaps(maps.rows, torch.where(mirrored[:, None, None], maps.columns.flip(1), maps.columns))


def _largest_box(height: int, width: int) -> tuple[int, int]:
    """Height and width of torchvision's fallback."""
    aspect = width / height
    if aspect < _ASPECTS[0]:
        return round(width / _ASPECTS[0]), width
    if aspect > _ASPECTS[1]:
        return height, round(height * _ASPECTS[1])
    return height, width


def _shuffled(axis: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """Permute the input side of axis matrices [B, R, side]: shuffling the image first, as seen by the map."""
    count, _, side = axis.shape
    order = torch.rand(count, factor, generator=generator).argsort(
        1
    )  # [B, factor], patch shown at each place
    length = side // factor
    patches = [torch.arange(p * length, side if p == factor - 1 else (p + 1) * length) for p in range(factor)]
    sources = torch.stack([torch.cat([patches[p] for p in one]) for one in order.tolist()])  # [B, side]
    # Place k of the shuffled image shows pixel sources[k], so the weight of place k belongs to that pixel.
    return torch.zeros_like(axis).scatter(2, sources.to(axis.device)[:, None].expand_as(axis), axis)
