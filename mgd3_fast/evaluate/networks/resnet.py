"""Residual networks: torchvision's, those of the hard-label protocol (IDC's code base), and GLaD's.

They differ in norm, stem, how they halve the map, and starting weights; names of parameters are
torchvision's throughout.

Shape letters: B images, N classes, R input side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_fast.evaluate.networks.plain import normalisation

_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_WIDTHS = (64, 128, 256, 512)
_BASIC, _BOTTLENECK = (3, 3), (1, 3, 1)  # sides of a block's convolutions; a bottleneck puts out 4 widths


class _Block(nn.Module):
    """Convolutions with norms, added to their input; the first of 3x3 is strided, or pooling follows it."""

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        norm: str,
        average_pooled: bool,
        kernels: tuple[int, ...],
    ) -> None:
        super().__init__()
        out = 4 * width if kernels == _BOTTLENECK else width
        strided, self.pool = (1, stride) if average_pooled else (stride, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            convolution = nn.Conv2d(channels, out, 1, strided, bias=False)
            pooling = [nn.AvgPool2d(stride)] if average_pooled else []
            self.downsample = nn.Sequential(convolution, *pooling, normalisation(norm, out))
        self.count, self.halving = len(kernels), 1 + kernels.index(3)
        widths = [channels, *[width] * (self.count - 1), out]
        for number, kernel in enumerate(kernels, 1):
            step = strided if number == self.halving else 1
            convolution = nn.Conv2d(
                widths[number - 1], widths[number], kernel, step, padding=kernel // 2, bias=False
            )
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", normalisation(norm, widths[number]))

    def forward(self, maps: Tensor) -> Tensor:
        """Add the block's change to its input."""
        change = maps
        for number in range(1, self.count + 1):
            change = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(change))
            if number < self.count:
                change = self.relu(change)
            if number == self.halving and self.pool != 1:
                change = F.avg_pool2d(change, self.pool)
        shortcut = maps if self.downsample is None else self.downsample(maps)
        out: Tensor = self.relu(change + shortcut)
        return out


class ResNet(nn.Module):
    """A residual network.

    Args:
        num_classes: N.
        size: R; images of another size are taken too.
        depth: 10, 18, 50 or 101.
        norm: "batch" (torchvision) or "instance".
        stem: "large" reduces the map to R/4; "mid" to R/2; "small" not at all; "by size", as IDC's code:
            small up to 64 pixels, mid up to 128.
        average_pooled: ResNetAP: nothing is strided, maps are averaged instead.
        scaled_weights: Start convolutions from N(0, 2 / (kh kw out_channels)), as torchvision and IDC do, not
            from PyTorch's default, as GLaD does.
    """

    def __init__(
        self,
        num_classes: int,
        size: int,
        *,
        depth: int,
        norm: str = "batch",
        stem: str = "large",
        average_pooled: bool = False,
        scaled_weights: bool = True,
    ) -> None:
        super().__init__()
        if stem == "by size":
            stem = "small" if size <= 64 else "mid" if size <= 128 else "large"
        kernels = _BOTTLENECK if depth >= 50 else _BASIC
        kernel, stride = (7, 1 if average_pooled else 2) if stem == "large" else (3, 1)
        channels = _WIDTHS[0]
        self.conv1 = nn.Conv2d(3, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = normalisation(norm, channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _stem_pooling(stem, average_pooled)
        for number, (width, count) in enumerate(zip(_WIDTHS, _BLOCKS[depth], strict=True), 1):
            blocks = []
            for place in range(count):
                halving = 2 if number > 1 and place == 0 else 1
                blocks.append(_Block(channels, width, halving, norm, average_pooled, kernels))
                channels = 4 * width if kernels == _BOTTLENECK else width
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        if scaled_weights:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for number in range(1, len(_WIDTHS) + 1):
            maps = self.get_submodule(f"layer{number}")(maps)
        logits: Tensor = self.fc(maps.mean((2, 3)))  # [B, C, h, w] -> [B, N]
        return logits


def _stem_pooling(stem: str, average_pooled: bool) -> nn.Module:
    if stem == "small":
        return nn.Identity()
    if average_pooled:
        return nn.AvgPool2d(4 if stem == "large" else 2)
    return nn.MaxPool2d(3, 2, padding=1)
