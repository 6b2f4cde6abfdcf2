"""Colour jitter and lighting of the hard-label protocol, each image by its own random amounts.

Jitter, lighting and normalisation are linear in the three colours of a pixel and the image's mean colour, so
that one small matrix of each image does all three in one pass over the pixels.

Shape letters: B images, H W their size.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mgd3_fast.evaluate.sending import send

STRENGTH = 0.4
_GREY = (0.299, 0.587, 0.114)
_LIGHTING_STD = 0.1
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ColourChanges(NamedTuple):
    """How the colours of each image of a batch are changed, on the CPU.

    Args:
        amounts: float32 `[B, 3]`: a of brightness, contrast and saturation.
        alphas: float32 `[B, 3]`: lighting along each eigenvector.
    """

    amounts: Tensor
    alphas: Tensor


def draw_colours(count: int, generator: torch.Generator) -> ColourChanges:
    """Draw a ~ U(-0.4, 0.4) and alpha ~ N(0, 0.1^2) of `count` images from a generator on the CPU."""
    amounts = (torch.rand(count, 3, generator=generator) * 2 - 1) * STRENGTH
    return ColourChanges(amounts, torch.randn(count, 3, generator=generator) * _LIGHTING_STD)


def recolour(images: Tensor, changes: ColourChanges) -> Tensor:
    """Change brightness, contrast and saturation, add AlexNet's colour noise, and normalise.

    x <- x + a (r - x), where r is 0 (brightness), the mean of the grey image (contrast) or the grey image
    (saturation), grey = 0.299 R + 0.587 G + 0.114 B; then x <- x + V diag(eigenvalues) alpha, V the
    eigenvectors of ImageNet's RGB covariance as columns; nothing is clamped. The protocol draws the order of
    the three for each image, but without clamping they commute, because the weights of grey add up to 1:

    x <- (1 - a_b) ((1 - a_c) ((1 - a_s) x + a_s grey) + a_c mean(grey)).

    Args:
        images: float32 `[B, 3, H, W]`.
        changes: Amounts of each image.

    Returns:
        float32 `[B, 3, H, W]`, normalised.
    """
    B, _, H, W = images.shape
    table = send(_colour_table(changes), images.device)  # [B, 3, 7]
    matrix, mean_matrix, offset = table[:, :, :3], table[:, :, 3:6], table[:, :, 6:]
    pixels = images.reshape(B, 3, H * W)
    offset = torch.baddbmm(offset, mean_matrix, pixels.mean(2, keepdim=True))
    return torch.baddbmm(offset, matrix, pixels).view(B, 3, H, W)


def _colour_table(changes: ColourChanges) -> Tensor:
    """What each colour is multiplied by, each mean colour, and what is added; float32 [B, 3, 3 + 3 + 1]."""
    mean, std, grey, values, vectors = (
        torch.tensor(one, dtype=torch.float64)
        for one in (IMAGENET_MEAN, IMAGENET_STD, _GREY, _EIGENVALUES, _EIGENVECTORS)
    )
    a_b, a_c, a_s = changes.amounts.double()[:, :, None, None].unbind(1)  # [B, 1, 1]
    to_grey = grey.expand(3, 3)
    matrix = (1 - a_b) * (1 - a_c) * ((1 - a_s) * torch.eye(3, dtype=torch.float64) + a_s * to_grey)
    lit = ((changes.alphas.double() * values) @ vectors.T - mean)[:, :, None]  # [B, 3, 1]
    table = torch.cat([matrix, (1 - a_b) * a_c * to_grey, lit], dim=2)
    return (table / std[:, None]).float()


def normalise(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, channel by channel."""
    mean, std = _imagenet_colours(images.device)
    return (images - mean) / std


@cache
def _imagenet_colours(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation, [3, 1, 1], sent to a device once."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(one, device=device).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std
