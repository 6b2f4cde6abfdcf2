"""What encoding needs of an autoencoder.

Shape letters: B images, C channels, h w latent size, R pixels a side.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mgd3_fast.errors import UserError


class Encoder(Protocol):
    """What encoding needs of an autoencoder."""

    @property
    def latent_channels(self) -> int:
        """C."""
        ...

    @property
    def downsample(self) -> int:
        """Pixels a side per latent value, R / h."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 3, R, R] to posterior means x scaling factor, float32 [B, C, h, w]."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> object:
        """Move to a device and number format, in place."""
        ...


def latent_shape(autoencoder: Encoder, resolution: int) -> tuple[int, int, int]:
    """Shape of one image's latents.

    Args:
        autoencoder: The encoder.
        resolution: Pixels a side.

    Returns:
        (C, h, w).

    Raises:
        UserError: `resolution` is not a multiple of the autoencoder's downsampling.
    """
    if resolution % autoencoder.downsample:
        raise UserError(f"resolution must be a multiple of {autoencoder.downsample}, got {resolution}")
    side = resolution // autoencoder.downsample
    return autoencoder.latent_channels, side, side
