"""Colour jitter and lighting of the hard-label protocol, each image by its own random amounts.

Shape letters: B images, H W their size.
"""

from __future__ import annotations

import torch
from torch import Tensor

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


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation, in an order of its own for each image.

    x <- x + a (r - x), a ~ U(-0.4, 0.4), where r is 0 (brightness), the mean of the grey image (contrast) or
    the grey image (saturation), grey = 0.299 R + 0.587 G + 0.114 B; nothing is clamped.

    Args:
        images: float32 `[B, 3, H, W]`.
        generator: Source of random numbers, on the CPU.

    Returns:
        float32 `[B, 3, H, W]`.
    """
    amounts = (torch.rand(len(images), 3, generator=generator) * 2 - 1) * STRENGTH
    order = torch.rand(len(images), 3, generator=generator).argsort(1)
    return jitter_by(images, amounts, order)


def jitter_by(images: Tensor, amounts: Tensor, order: Tensor) -> Tensor:
    """Jitter by given amounts; see `jitter`.

    Args:
        images: float32 `[B, 3, H, W]`.
        amounts: float32 `[B, 3]`: a of brightness, contrast and saturation.
        order: int64 `[B, 3]`, a permutation of 0 (brightness), 1 (contrast) and 2 (saturation) per image.

    Returns:
        float32 `[B, 3, H, W]`.
    """
    weights = torch.tensor(_GREY, device=images.device).view(3, 1, 1)
    for place in range(3):
        change = order[:, place]
        amount = amounts.gather(1, change[:, None])[:, 0].to(images.device).view(-1, 1, 1, 1)
        change = change.to(images.device).view(-1, 1, 1, 1)
        grey = (images * weights).sum(1, keepdim=True)  # [B, 1, H, W]
        reference = torch.where(change == 2, grey, (change == 1) * grey.mean((2, 3), keepdim=True))
        images = torch.lerp(images, reference.expand_as(images), amount)
    return images


def lighting(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add AlexNet's colour noise: the same RGB offset to all pixels of an image.

    Args:
        images: float32 `[B, 3, H, W]`.
        generator: Source of random numbers, on the CPU.

    Returns:
        float32 `[B, 3, H, W]`.
    """
    alphas = torch.randn(len(images), 3, generator=generator) * _LIGHTING_STD
    return lighting_by(images, alphas)


def lighting_by(images: Tensor, alphas: Tensor) -> Tensor:
    """Add V diag(eigenvalues) alpha, V the eigenvectors of ImageNet's RGB covariance as columns.

    Args:
        images: float32 `[B, 3, H, W]`.
        alphas: float32 `[B, 3]`.

    Returns:
        float32 `[B, 3, H, W]`.
    """
    offsets = (alphas * torch.tensor(_EIGENVALUES)) @ torch.tensor(_EIGENVECTORS).T  # [B, 3]
    return images + offsets.to(images.device)[:, :, None, None]


def normalise(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, channel by channel."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return (images - mean) / std
