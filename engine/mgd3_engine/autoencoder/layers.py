"""The layers of an autoencoder's blocks: convolutions and group normalisation.

Shape letters: B images, C channels in, O channels out, H W pixels.

Each layer computes the same formula in one of two ways. While a gradient is recorded or a graph is traced it
is torch's usual operations; otherwise what is fastest on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_engine.dit.layers import runs_plain, uses_onednn
from mgd3_kernels import group_norm_silu
from mgd3_kernels.launching import launches

EPS = 1e-6  # added to every variance


class Branch(NamedTuple):
    """What a residual block adds to its input, but has not yet: the next norm does it in its own pass."""

    output: Tensor
    bias: Tensor | None


def settled(x: Tensor, waiting: Branch | None) -> Tensor:
    """Add what waits for x, in the branch's memory unless a gradient needs it."""
    if waiting is None:
        return x
    branch, bias = waiting
    if branch.requires_grad or x.requires_grad:
        return branch + x
    return (branch if bias is None else branch.add_(bias[:, None, None])).add_(x)


class Conv(nn.Conv2d):
    """A convolution that may leave its bias to whatever reads its output next."""

    _packed: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, O, H', W']`."""
        if uses_onednn(x, self.weight) and not self.weight.is_inference():
            return self._by_onednn(x)
        return super().forward(x)

    def without_bias(self, x: Tensor) -> Branch:
        """Map `[B, C, H, W]`.

        Returns:
            The output `[B, O, H', W']`, and the bias `[O]` that is still to be added, or None: cuDNN's
            convolution as torch calls it adds a bias in a pass of its own, which the next norm can do.
        """
        if runs_plain(x, self.weight) and launches(x):
            return Branch(F.conv2d(x, self.weight, None, self.stride, self.padding), self.bias)
        return Branch(self(x), None)

    def _by_onednn(self, x: Tensor) -> Tensor:
        """Convolve with weights in oneDNN's own layout, which torch would bring them to in every call.

        On one Xeon core in float32, KL-f8 at 32 px takes 1.2 times as long without (1 image). The demo's
        small weights gain nothing, but unlike torch's call this adds up one image as it does many.
        """
        weight, stride, padding = self.weight, list(self.stride), list(self.padding)
        operations = torch.ops.mkldnn
        state = (weight.data_ptr(), weight._version, weight.dtype, x.shape)
        if self._packed is None or self._packed[0] != state:
            packed = operations._reorder_convolution_weight(
                weight, padding, stride, self.dilation, self.groups, x.shape
            )
            self._packed = (state, packed)
        convolved: Tensor = operations._convolution_pointwise(
            x, self._packed[1], self.bias, padding, stride, self.dilation, self.groups, "none", [], ""
        )
        return convolved


class Norm(nn.GroupNorm):
    """Group normalisation with SiLU behind it, or without."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[B, C, H, W]`."""
        return self._normed(x, None, silu=False)

    def silu(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Normalise x + shift, a number a channel, and apply SiLU."""
        return self._normed(x, shift, silu=True)

    def silu_of_sum(self, x: Tensor, waiting: Branch | None) -> tuple[Tensor, Tensor]:
        """Add the branch that waits for x, normalise and apply SiLU; returns that and the sum."""
        if waiting is None or not (runs_plain(x, self.weight) and launches(x)):
            x = settled(x, waiting)
            return self.silu(x), x
        branch = waiting.output.contiguous(memory_format=torch.channels_last)
        normed = group_norm_silu(
            branch,
            self.weight,
            self.bias,
            self.num_groups,
            eps=self.eps,
            shift=waiting.bias,
            residual=x.contiguous(memory_format=torch.channels_last),
        )
        return normed, branch

    def _normed(self, x: Tensor, shift: Tensor | None, *, silu: bool) -> Tensor:
        if runs_plain(x, self.weight) and launches(x):
            x = x.contiguous(memory_format=torch.channels_last)
            return group_norm_silu(
                x, self.weight, self.bias, self.num_groups, eps=self.eps, silu=silu, shift=shift
            )
        assert shift is None, "a bias waits only for the kernels"
        normed = torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(normed, inplace=not normed.requires_grad) if silu else normed
