"""Crops, patch shuffles, flips and shifts of a batch, each image by its own random amounts.

All of these move rows and columns independently: an output row is a weighted sum of T input rows, 2 of them
for a bilinear crop that grows, and likewise for columns. Changes of place compose without touching a pixel,
and a batch is resized by 2 T copies of rows, whatever boxes its images have. Maps are made on the CPU; only
these small tables go to the images' device.

Shape letters: B images, H W their size, R side of the result, T taps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ASPECTS = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class Boxes(NamedTuple):
    """Crop boxes, each int64 `[B]` on the CPU."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


class AxisMap(NamedTuple):
    """Which inputs each output is a sum of: places int64 `[B, R, T]`, weights float32 `[B, R, T]`."""

    places: Tensor
    weights: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Map the rows of float32 [B, C, H, W], on any device, to [B, C, R, W]."""
        B, C, H, W = images.shape
        R = self.places.shape[1]
        first_rows = torch.arange(0, B * C * H, H).view(B, C, 1, 1)
        places = (self.places[:, None] + first_rows).to(images.device)  # [B, C, R, T], rows of all images
        weights = self.weights[:, None].expand(B, C, R, -1).to(images.device)
        rows = images.reshape(B * C * H, W)
        total = torch.zeros(B * C * R, W, dtype=images.dtype, device=images.device)
        for place, weight in zip(places.unbind(3), weights.unbind(3), strict=True):
            total.addcmul_(rows.index_select(0, place.flatten()), weight.reshape(-1, 1))
        return total.view(B, C, R, W)


class AxisMaps(NamedTuple):
    """What is done to the rows and to the columns of a batch."""

    rows: AxisMap
    columns: AxisMap

    def apply(self, images: Tensor) -> Tensor:
        """Change images float32 [B, C, H, W], on any device, into [B, C, R, R]."""
        changed = self.columns.apply(self.rows.apply(images).transpose(2, 3))
        return changed.transpose(2, 3).contiguous()


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
        boxes: B boxes.
        height: H.
        width: W.
        size: R.

    Returns:
        Maps from images to resized crops.
    """
    return AxisMaps(
        resize_map(boxes.top, boxes.height, height, size), resize_map(boxes.left, boxes.width, width, size)
    )


def resize_map(start: Tensor, length: Tensor, side: int, size: int) -> AxisMap:
    """Bilinear resize along one axis, pixel centres at i + 1/2, nothing read outside the box.

    Weight of input i for output j: max(0, 1 - |i + 1/2 - (j + 1/2) s| / max(s, 1)), s = length / size,
    normalised to add up to 1 over the box (Pillow's and torchvision's antialiased bilinear filter).

    Args:
        start: int64 `[B]`, first pixel of each box.
        length: int64 `[B]`, its pixels.
        side: Pixels of the whole axis.
        size: R.

    Returns:
        T = 2 taps where every box grows, the more the further one shrinks.
    """
    scale = (length.double() / size)[:, None, None]
    reach = scale.clamp(min=1)
    centres = (
        torch.arange(size, dtype=torch.float64)[None, :, None] + 0.5
    ) * scale  # [B, R, 1], from the box on
    first = (centres - reach - 0.5).floor() + 1
    inputs = first + torch.arange(math.ceil(2 * float(reach.max())))  # [B, R, T]
    weights = (1 - (inputs + 0.5 - centres).abs() / reach).clamp(min=0)
    weights = weights * ((inputs >= 0) & (inputs < length[:, None, None]))
    places = (inputs.long() + start[:, None, None]).clamp(0, side - 1)
    return AxisMap(places, (weights / weights.sum(2, keepdim=True)).float())


def shift_maps(count: int, side: int, margin: int, generator: torch.Generator) -> AxisMaps:
    """Shift by up to `margin` pixels each way, zeros coming in: a random crop of the padded image.

    Args:
        count: B.
        side: R, of the square images and of the result.
        margin: Pixels of padding.
        generator: Source of random numbers, on the CPU.

    Returns:
        Maps of one tap, of weight 1 or, where a zero comes in, 0.
    """
    shifts = torch.randint(-margin, margin + 1, (2, count, 1), generator=generator)
    places = (torch.arange(side) + shifts).unsqueeze(3)  # [2, B, R, 1]
    weights = ((places >= 0) & (places < side)).float()
    rows, columns = map(AxisMap, places.clamp(0, side - 1), weights)
    return AxisMaps(rows, columns)


def shuffle_patches(
    maps: AxisMaps, factor: int, sides: tuple[int, int], generator: torch.Generator
) -> AxisMaps:
    """Let maps see images whose `factor` x `factor` patches are shuffled as RDED does.

    Columns of patches are put in random order, then rows of patches. The last patch of an axis takes what
    does not divide.

    Args:
        maps: What comes after the shuffle.
        factor: Patches a side; 1 is no shuffle.
        sides: H and W of the images.
        generator: Source of random numbers, on the CPU.

    Returns:
        Maps that shuffle first.
    """
    if factor == 1:
        return maps
    rows, columns = (_shuffled(axis, factor, side, generator) for axis, side in zip(maps, sides, strict=True))
    return AxisMaps(rows, columns)


def flip_half(maps: AxisMaps, generator: torch.Generator) -> AxisMaps:
    """Mirror each image left to right with probability 1/2, after what `maps` do."""
    mirrored = (torch.rand(len(maps.columns.places), generator=generator) < 0.5)[:, None, None]
    places, weights = (torch.where(mirrored, part.flip(1), part) for part in maps.columns)
    return AxisMaps(maps.rows, AxisMap(places, weights))


def _largest_box(height: int, width: int) -> tuple[int, int]:
    """Height and width of torchvision's fallback."""
    aspect = width / height
    if aspect < _ASPECTS[0]:
        return round(width / _ASPECTS[0]), width
    if aspect > _ASPECTS[1]:
        return height, round(height * _ASPECTS[1])
    return height, width


def _shuffled(axis: AxisMap, factor: int, side: int, generator: torch.Generator) -> AxisMap:
    """Read pixel sources[k] of the image wherever place k of the shuffled one is wanted."""
    count = len(axis.places)
    order = torch.rand(count, factor, generator=generator).argsort(
        1
    )  # [B, factor], patch shown at each place
    length = side // factor
    patches = [torch.arange(p * length, side if p == factor - 1 else (p + 1) * length) for p in range(factor)]
    sources = torch.stack([torch.cat([patches[p] for p in one]) for one in order.tolist()])  # [B, side]
    places = sources.gather(1, axis.places.flatten(1)).view_as(axis.places)
    return AxisMap(places, axis.weights)
