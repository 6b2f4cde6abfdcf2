"""The blocks of an autoencoder, by the parameter names of diffusers.

Shape letters: B images, C channels, H W pixels, T = H W positions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_engine.autoencoder.layers import Conv, Norm


class ResnetBlock(nn.Module):
    """Two convolutions, each behind group normalisation and SiLU, beside a residual (Rombach et al. 2022)."""

    def __init__(self, channels_in: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = Norm(groups, channels_in)
        self.conv1 = Conv(channels_in, channels, 3, padding=1)
        self.norm2 = Norm(groups, channels)
        self.conv2 = Conv(channels, channels, 3, padding=1)
        self.conv_shortcut = Conv(channels_in, channels, 1) if channels_in != channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C, H, W]`."""
        hidden, bias = self.conv1.without_bias(self.norm1.silu(x))
        branch = self.conv2(self.norm2.silu(hidden, bias))
        residual = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return added(branch, residual)


class Attention(nn.Module):
    """Self-attention of one head over all positions, beside a residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = Norm(groups, channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Mix `[B, C, H, W]` over its positions."""
        B, C, H, W = x.shape
        tokens = self.group_norm(x).permute(0, 2, 3, 1).reshape(B, 1, H * W, C)  # [B, 1, T, C]
        query, key, value = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        mixed = self.to_out[0](F.scaled_dot_product_attention(query, key, value))
        return added(mixed.view(B, H, W, C).permute(0, 3, 1, 2), x)


class MidBlock(nn.Module):
    """A residual block, attention or none, and another residual block."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        mixed: Tensor = self.resnets[1](x)
        return mixed


class Downsample(nn.Module):
    """Halve the size by a convolution of stride 2 on pixels with a row and a column of zeros behind them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, C, H // 2, W // 2]`."""
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Double the size by repeating pixels, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, C, 2 H, 2 W]`."""
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0))
        return doubled


class DownBlock(nn.Module):
    """Residual blocks of one size, then half of it."""

    def __init__(self, channels_in: int, channels: int, layers: int, groups: int, halve: bool) -> None:
        super().__init__()
        widths = [channels_in, *[channels] * (layers - 1)]
        self.resnets = nn.ModuleList([ResnetBlock(width, channels, groups) for width in widths])
        self.downsamplers = nn.ModuleList([Downsample(channels)] if halve else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C, H / 2, W / 2]`, or without halving."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """Residual blocks of one size, then twice of it."""

    def __init__(self, channels_in: int, channels: int, layers: int, groups: int, double: bool) -> None:
        super().__init__()
        widths = [channels_in, *[channels] * (layers - 1)]
        self.resnets = nn.ModuleList([ResnetBlock(width, channels, groups) for width in widths])
        self.upsamplers = nn.ModuleList([Upsample(channels)] if double else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C, 2 H, 2 W]`, or without doubling."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


def added(branch: Tensor, residual: Tensor) -> Tensor:
    """Add a branch to its residual, in the branch's memory unless a gradient needs it."""
    return branch + residual if branch.requires_grad or residual.requires_grad else branch.add_(residual)
