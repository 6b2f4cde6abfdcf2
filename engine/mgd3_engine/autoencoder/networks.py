"""The networks: encoder, decoder, and the two kinds of autoencoder made of them.

Shape letters: B images, P resolution in pixels, C latent channels, h w latent size, V codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mgd3_engine.autoencoder.blocks import DownBlock, MidBlock, UpBlock
from mgd3_engine.autoencoder.config import AutoencoderConfig, KLConfig, VQConfig
from mgd3_engine.autoencoder.layers import Conv, Norm
from mgd3_engine.files.weights import check_weights


class Encoder(nn.Module):
    """Images to the moments of their latents, or to the latents themselves."""

    def __init__(self, config: AutoencoderConfig, channels_out: int) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        inner = len(widths) - 1
        self.conv_in = Conv(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            [
                DownBlock(widths[max(0, i - 1)], width, config.layers_per_block, groups, i < inner)
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], groups, config.mid_block_add_attention)
        self.conv_norm_out = Norm(groups, widths[-1])
        self.conv_out = Conv(widths[-1], channels_out, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map `[B, 3, P, P]` to `[B, channels_out, h, w]`."""
        x = self.conv_in(pixels)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x)
        encoded: Tensor = self.conv_out(self.conv_norm_out.silu(x))
        return encoded


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        outer = len(widths) - 1
        self.conv_in = Conv(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList(
            [
                UpBlock(widths[max(0, i - 1)], width, config.layers_per_block + 1, groups, i < outer)
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = Norm(groups, widths[-1])
        self.conv_out = Conv(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Map `[B, C, h, w]` to `[B, 3, P, P]`."""
        x = self.conv_in(latents)
        for block in (self.mid_block, *self.up_blocks):
            x = block(x)
        pixels: Tensor = self.conv_out(self.conv_norm_out.silu(x))
        return pixels


class AutoencoderKL(nn.Module):
    """A KL-regularised autoencoder (Rombach et al. 2022), by the parameter names of diffusers' class."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        C = config.latent_channels
        self.encoder, self.decoder = Encoder(config, 2 * C), Decoder(config)
        self.quant_conv = Conv(2 * C, 2 * C, 1) if config.use_quant_conv else None
        self.post_quant_conv = Conv(C, C, 1) if config.use_post_quant_conv else None

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            pixels: `[B, 3, P, P]` in -1..1.

        Returns:
            Mean and log-variance of the posterior, `[B, C, h, w]` each, without shift and scale.
        """
        moments = self.encoder(pixels)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode `[B, C, h, w]`, shift and scale undone, to `[B, 3, P, P]` in -1..1."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        pixels: Tensor = self.decoder(latents)
        return pixels


class Quantizer(nn.Module):
    """The codebook."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)


class VQModel(nn.Module):
    """A vector-quantised autoencoder (van den Oord et al. 2017), by diffusers' parameter names."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        C, code = config.latent_channels, config.code_channels
        self.encoder, self.decoder = Encoder(config, C), Decoder(config)
        self.quant_conv, self.post_quant_conv = Conv(C, code, 1), Conv(code, C, 1)
        self.quantize = Quantizer(config.num_vq_embeddings, code)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode `[B, 3, P, P]` in -1..1 to `[B, C, h, w]`, not quantised."""
        encoded: Tensor = self.quant_conv(self.encoder(pixels))
        return encoded

    def decode(self, codes: Tensor) -> Tensor:
        """Decode `[B, C, h, w]` whose positions are codes already to `[B, 3, P, P]` in -1..1."""
        pixels: Tensor = self.decoder(self.post_quant_conv(codes))
        return pixels


def filled_network(config: AutoencoderConfig, weights: Mapping[str, Tensor]) -> AutoencoderKL | VQModel:
    """Build the network of a configuration around tensors, which are not copied.

    Args:
        config: Of the kind of the network.
        weights: Floating-point tensors by diffusers' names.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        RuntimeError: A tensor is missing, unknown or of another shape.
        ValueError: A tensor holds NaN or infinity, of which a decoder would make black pixels, or there are
            fewer tensors than layers.
    """
    layers = config.layers_per_block * len(config.block_out_channels)
    if layers > len(weights):  # before minutes are spent on building what cannot be filled
        raise ValueError(f"its settings say {layers} layers, and it holds {len(weights)} tensors")
    with torch.device("meta"):
        network = VQModel(config) if isinstance(config, VQConfig) else AutoencoderKL(config)  # type: ignore[arg-type]
    network.load_state_dict(weights, assign=True)
    check_weights(weights)
    return network.eval().requires_grad_(False)
