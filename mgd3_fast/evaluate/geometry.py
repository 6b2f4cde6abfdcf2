"""Crops, patch shuffles, flips and shifts of a batch, each image by its own random amounts.

All of these move rows and columns independently: an output row is a weighted sum of T input rows, 2 of them
for a bilinear crop that grows, and likewise for columns. Changes of place compose without touching a pixel,
and a batch is resized by two matrix products, whatever boxes its images have. Maps are made on the CPU; only
these small tables go to the images' device.

Shape letters: B images, C channels, H W their size, R side of the result, T taps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mgd3_fast.evaluate.sending import send

_ASPECTS = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class Boxes(NamedTuple):
    """Crop boxes, each int64 `[B]` on the CPU."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


class AxisMaps(NamedTuple):
    """Which inputs each output row and each output column is a sum of, on the CPU.

    Args:
        places: int64 `[2, B, T, R]`, of rows and of columns; those of one output differ, or weigh 0.
        weights: float32 `[2, B, T, R]`.
    """

    places: Tensor
    weights: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Change images float32 [B, C, H, W], on any device, into [B, C, R, R]."""
        B, C, H, W = images.shape
        rows, columns = self.matrices(H, W, images.device)
        across = images.reshape(B, C * H, W) @ columns  # [B, C * H, R]
        return rows.mT[:, None] @ across.view(B, C, H, -1)  # [B, C, R, R]

    def matrices(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weights of every input, zeros included, float32 `[B, H, R]` and `[B, W, R]`.

        Two matrix products are faster than 2 T copies of rows.
        """
        weights, places = send(self.weights, device), send(self.places, device)
        _, B, _, R = weights.shape
        matrices = torch.zeros(2, B, max(height, width), R, device=device)
        matrices.scatter_add_(2, places, weights)
        return matrices[0, :, :height], matrices[1, :, :width]


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


def crop_maps(boxes: Boxes, size: int) -> AxisMaps:
    """Cut boxes out and resize them bilinearly, with antialiasing where a box shrinks.

    Pixel centres lie at i + 1/2, nothing is read outside the box. Weight of input i for output j:
    max(0, 1 - |i + 1/2 - (j + 1/2) s| / max(s, 1)), s = length / size, normalised to add up to 1 over the box
    (Pillow's and torchvision's antialiased bilinear filter).

    Returns:
        Maps to crops of `size` pixels a side; T = 2 where every box grows, the more the further one shrinks.
    """
    start = torch.stack([boxes.top, boxes.left])[:, :, None, None]  # [2, B, 1, 1]
    length = torch.stack([boxes.height, boxes.width])[:, :, None, None]
    scale = length.double() / size
    reach = scale.clamp(min=1)
    centres = (torch.arange(size) + 0.5) * scale  # [2, B, 1, R], from the box on
    first = (centres - (reach + 0.5)).floor() + 1
    taps = torch.arange(math.ceil(2 * float(reach.max())))[:, None]
    # From here on in float32: places are large numbers, distances from the centre are not.
    distances = ((first + 0.5 - centres).float() + taps).abs_()  # [2, B, T, R]
    weights = distances.div_(-reach.float()).add_(1).clamp_(min=0)
    inputs = first.long() + taps
    places = inputs.clamp(min=0).minimum(length - 1)
    weights *= inputs == places  # nothing from outside the box
    return AxisMaps(places + start, weights.div_(weights.sum(2, keepdim=True)))


def shift_maps(count: int, side: int, margin: int, generator: torch.Generator) -> AxisMaps:
    """Shift by up to `margin` pixels each way, zeros coming in: a random crop of the padded image.

    Args:
        count: B.
        side: R, of the square images and of the result.
        margin: Pixels of padding.
        generator: Source of random numbers, on the CPU.
    """
    shifts = torch.randint(-margin, margin + 1, (2, count, 1), generator=generator)
    places = (torch.arange(side) + shifts).unsqueeze(2)  # [2, B, 1, R]
    return AxisMaps(places.clamp(0, side - 1), ((places >= 0) & (places < side)).float())


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
    """
    if factor == 1:
        return maps
    places = [_shuffled(axis, factor, side, generator) for axis, side in zip(maps.places, sides, strict=True)]
    return AxisMaps(torch.stack(places), maps.weights)


def flip_half(maps: AxisMaps, generator: torch.Generator) -> AxisMaps:
    """Mirror each image left to right with probability 1/2, after what `maps` do."""
    mirrored = (torch.rand(maps.places.shape[1], generator=generator) < 0.5)[:, None, None]
    places, weights = (
        torch.stack([rows, torch.where(mirrored, columns.flip(2), columns)]) for rows, columns in maps
    )
    return AxisMaps(places, weights)


def _largest_box(height: int, width: int) -> tuple[int, int]:
    """Height and width of torchvision's fallback."""
    aspect = width / height
    if aspect < _ASPECTS[0]:
        return round(width / _ASPECTS[0]), width
    if aspect > _ASPECTS[1]:
        return height, round(height * _ASPECTS[1])
    return height, width


def _shuffled(places: Tensor, factor: int, side: int, generator: torch.Generator) -> Tensor:
    """Read pixel sources[k] of the image wherever place k, of `[B, T, R]`, of the shuffled one is wanted."""
    # [B, factor], the patch shown at each place.
    order = torch.rand(len(places), factor, generator=generator).argsort(1)
    length = side // factor
    patches = [torch.arange(p * length, side if p == factor - 1 else (p + 1) * length) for p in range(factor)]
    sources = torch.stack([torch.cat([patches[p] for p in one]) for one in order.tolist()])  # [B, side]
    return sources.gather(1, places.flatten(1)).view_as(places)
