"""The layers of an autoencoder's blocks: convolutions and group normalisation.

Shape letters: B images, C channels in, O channels out, H W pixels.

Each layer computes the same formula in one of two ways. While a gradient is recorded or a graph is traced it
is torch's usual operations; otherwise what is fastest on the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_engine.dit.layers import runs_plain, uses_onednn
from mgd3_kernels import group_norm_silu

EPS = 1e-6  # added to every variance


class Conv(nn.Conv2d):
    """A convolution that may leave its bias to whatever reads its output next."""

    _packed: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, O, H', W']`."""
        if uses_onednn(x, self.weight) and not self.weight.is_inference():
            return self._by_onednn(x)
        return super().forward(x)

    def without_bias(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map `[B, C, H, W]`.

        Returns:
            The output `[B, O, H', W']`, and the bias `[O]` that is still to be added, or None: cuDNN's
            convolution as torch calls it adds a bias in a pass of its own, which the next norm can do.
        """
        if x.is_cuda and runs_plain(x, self.weight):
            return F.conv2d(x, self.weight, None, self.stride, self.padding), self.bias
        return self(x), None

    def _by_onednn(self, x: Tensor) -> Tensor:
        """Convolve with weights in oneDNN's own layout, which torch would bring them to in every call.

        On one Xeon core in float32, KL-f8 at 32 px takes 1.2 times as long without (1 image).
        """
        weight, stride, padding = self.weight, list(self.stride), list(self.padding)  # type: ignore[arg-type]
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

    def _normed(self, x: Tensor, shift: Tensor | None, *, silu: bool) -> Tensor:
        if runs_plain(x, self.weight):
            if x.is_cuda:
                x = x.contiguous(memory_format=torch.channels_last)
            return group_norm_silu(
                x, self.weight, self.bias, self.num_groups, eps=self.eps, silu=silu, shift=shift
            )
        normed = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(normed) if silu else normed
