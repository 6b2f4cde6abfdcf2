"""The two normalisations of the protocols' networks."""

from __future__ import annotations

from torch import nn


def normalisation(norm: str, channels: int) -> nn.Module:
    """Make a normalisation layer with scale and offset, eps 1e-5.

    Args:
        norm: "instance": group normalisation with as many groups as channels, the same in training and
            evaluation; "batch": batch normalisation with running statistics.
        channels: Channels of the input.

    Returns:
        The layer.
    """
    return nn.GroupNorm(channels, channels) if norm == "instance" else nn.BatchNorm2d(channels)
