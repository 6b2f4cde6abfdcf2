"""The autoencoder: its architecture, its loss and the scale of its latents.

Shape letters: B images, R resolution in pixels, c latent channels, h w latent size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.autoencoder import AutoencoderKL, KLConfig


def build_vae(
    *, channels: tuple[int, ...], layers: int, latent_channels: int, attention: bool, resolution: int
) -> AutoencoderKL:
    """Make an autoencoder with random weights; each of the blocks but the last halves the size.

    Args:
        channels: Channels of the blocks, from the pixels inwards.
        layers: Residual layers of an encoder block; a decoder block has one more.
        latent_channels: Channels c of a latent.
        attention: Whether the middle blocks have self-attention.
        resolution: Side R of the images in pixels; recorded in the configuration.

    Returns:
        The network, with `scaling_factor` 1.
    """
    config = KLConfig(
        block_out_channels=channels,
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=group_count(channels),
        mid_block_add_attention=attention,
        sample_size=resolution,
        scaling_factor=1.0,
    )
    return AutoencoderKL(config)


def group_count(channels: tuple[int, ...]) -> int:
    """Largest number of normalisation groups, at most 32, that leaves every block two channels a group."""
    return max(
        n for n in (1, 2, 4, 8, 16, 32) if all(width % n == 0 and width >= 2 * n for width in channels)
    )


def vae_loss(
    vae: Any, images: Tensor, generator: torch.Generator, *, kind: str, kl_weight: float
) -> dict[str, Tensor]:
    """Reconstruction error plus weighted divergence of the posterior from N(0, 1).

    loss = error + kl_weight * KL / (c h w), with the error per pixel value and the latent drawn from the
    posterior (Kingma & Welling 2014, Eq. 10; Rombach et al. 2022, appendix G, without the adversarial term).

    Args:
        vae: `AutoencoderKL`.
        images: uint8 `[B, 3, R, R]` on the network's device.
        generator: Source of the posterior's noise, on the CPU.
        kind: "l1" or "mse", on pixel values from -1 to 1.
        kl_weight: Weight of the divergence, in nats per latent value.

    Returns:
        Scalars "loss", "reconstruction" and "kl" (nats per latent value).
    """
    targets = images.float() / 127.5 - 1.0
    mean, log_variance = (moment.float() for moment in vae.encode(targets))
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    decoded = vae.decode(mean + (0.5 * log_variance).exp() * noise).float()
    difference = decoded - targets
    error = difference.abs().mean() if kind == "l1" else difference.square().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return {"loss": error + kl_weight * kl, "reconstruction": error, "kl": kl}


def latent_scale(vae: Any, batches: Iterable[Tensor]) -> float:
    """1 / standard deviation of all posterior means: brings the latents to unit variance.

    Args:
        vae: `AutoencoderKL` in evaluation mode.
        batches: Iterable of uint8 `[B, 3, R, R]`.

    Returns:
        The scaling factor (Rombach et al. 2022, appendix G).
    """
    device = next(vae.parameters()).device
    total = squares = 0.0
    count = 0
    with torch.inference_mode():
        for images in batches:
            mean = vae.encode(images.to(device).float() / 127.5 - 1.0)[0].double()
            total, squares, count = (
                total + mean.sum().item(),
                squares + mean.square().sum().item(),
                count + mean.numel(),
            )
    return 1.0 / math.sqrt(squares / count - (total / count) ** 2)
