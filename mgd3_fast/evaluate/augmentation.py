"""Stored pixels to a training batch: the named augmentations of the protocols, batched on the device.

Shape letters: B images, H W their stored size, R side of what the network sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mgd3_fast.evaluate.colours import draw_colours, normalise, recolour
from mgd3_fast.evaluate.geometry import (
    AxisMaps,
    crop_maps,
    draw_boxes,
    flip_half,
    shift_maps,
    shuffle_patches,
)
from mgd3_fast.evaluate.siamese import augment_siamese

if TYPE_CHECKING:
    from mgd3_fast.evaluate.recipe import Recipe

_SHIFT_SHARE = 8  # 4 pixels of 32, as IDC pads small images


def augment_batch(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Augment and normalise a batch, uint8 `[B, 3, H, W]` to float32 `[B, 3, R, R]`, as the recipe says.

    `generator` is the source of random numbers, on the CPU.
    """
    images = pixels.float() / 255
    maps = _maps(images, recipe, generator)
    if maps is not None:
        images = maps.apply(images)
    if recipe.augmentation == "imagenet":
        return recolour(images, draw_colours(len(images), generator))
    images = normalise(images)
    if recipe.augmentation == "siamese":
        images = augment_siamese(images, recipe.flip, generator)
    return images


def _maps(images: Tensor, recipe: Recipe, generator: torch.Generator) -> AxisMaps | None:
    """What moves rows and columns, or None where nothing does."""
    count, _, height, width = images.shape
    if recipe.augmentation in ("none", "siamese"):
        return None
    if recipe.augmentation == "shift":
        maps = shift_maps(count, recipe.size, recipe.size // _SHIFT_SHARE, generator)
    else:
        boxes = draw_boxes(count, height, width, recipe.crop_area, generator)
        maps = crop_maps(boxes, recipe.size)
    if recipe.augmentation == "patches":
        maps = shuffle_patches(maps, recipe.patches, (height, width), generator)
    return flip_half(maps, generator) if recipe.flip else maps
