"""Residual networks: torchvision's, those of the hard-label protocol (IDC's code base), and GLaD's.

They differ in norm, stem, how they halve the map, and starting weights; names of parameters are
torchvision's throughout.

Shape letters: B images, N classes, R input side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_fast.evaluate.networks.normalisation import normalisation

LAYERS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_BOTTLENECK_DEPTHS = (50, 101)
_WIDTHS = (64, 128, 256, 512)


class _Block(nn.Module):
    """What both blocks share: the map is halved by a strided convolution, or by pooling after it."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: str, average_pooled: bool) -> None:
        super().__init__()
        self.stride = 1 if average_pooled else stride
        self.pool = stride if average_pooled else 1
        self.relu = nn.ReLU(inplace=True)
        out = width * self.expansion
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            convolution = nn.Conv2d(channels, out, 1, self.stride, bias=False)
            pooling = [nn.AvgPool2d(stride)] if average_pooled else []
            self.downsample = nn.Sequential(convolution, *pooling, normalisation(norm, out))

    def _halved(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, self.pool) if self.pool != 1 else maps

    def _shortcut(self, maps: Tensor) -> Tensor:
        if self.downsample is None:
            return maps
        shortcut: Tensor = self.downsample(maps)
        return shortcut


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    def __init__(self, channels: int, width: int, stride: int, norm: str, average_pooled: bool) -> None:
        super().__init__(channels, width, stride, norm, average_pooled)
        self.conv1 = nn.Conv2d(channels, width, 3, self.stride, padding=1, bias=False)
        self.bn1 = normalisation(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = normalisation(norm, width)

    def forward(self, maps: Tensor) -> Tensor:
        """Add the block's change to its input."""
        change = self._halved(self.relu(self.bn1(self.conv1(maps))))
        change = self.bn2(self.conv2(change))
        out: Tensor = self.relu(change + self._shortcut(maps))
        return out


class Bottleneck(_Block):
    """A 3x3 convolution, which carries the stride, between two of 1x1."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, norm: str, average_pooled: bool) -> None:
        super().__init__(channels, width, stride, norm, average_pooled)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = normalisation(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, self.stride, padding=1, bias=False)
        self.bn2 = normalisation(norm, width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = normalisation(norm, width * self.expansion)

    def forward(self, maps: Tensor) -> Tensor:
        """Add the block's change to its input."""
        change = self.relu(self.bn1(self.conv1(maps)))
        change = self._halved(self.relu(self.bn2(self.conv2(change))))
        change = self.bn3(self.conv3(change))
        out: Tensor = self.relu(change + self._shortcut(maps))
        return out


class ResNet(nn.Module):
    """A residual network.

    Args:
        num_classes: N.
        depth: 10, 18, 50 or 101.
        norm: "batch" (torchvision) or "instance".
        stem: "large" reduces the map to R/4; "mid" to R/2; "small" not at all.
        average_pooled: ResNetAP: nothing is strided, maps are averaged instead.
        scaled_weights: Start convolutions from N(0, 2 / (kh kw out_channels)), as torchvision and IDC do, not
            from PyTorch's default, as GLaD does.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int,
        norm: str = "batch",
        stem: str = "large",
        average_pooled: bool = False,
        scaled_weights: bool = True,
    ) -> None:
        super().__init__()
        block = Bottleneck if depth in _BOTTLENECK_DEPTHS else BasicBlock
        kernel, stride = (7, 1 if average_pooled else 2) if stem == "large" else (3, 1)
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = normalisation(norm, _WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _stem_pooling(stem, average_pooled)
        channels = _WIDTHS[0]
        for number, (width, count) in enumerate(zip(_WIDTHS, LAYERS[depth], strict=True), 1):
            blocks = []
            for place in range(count):
                halving = 2 if number > 1 and place == 0 else 1
                blocks.append(block(channels, width, halving, norm, average_pooled))
                channels = width * block.expansion
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


def stem_of(size: int) -> str:
    """The stem that IDC's code gives a network for images of `size` pixels."""
    if size <= 64:
        return "small"
    return "mid" if size <= 128 else "large"


def _stem_pooling(stem: str, average_pooled: bool) -> nn.Module:
    if stem == "small":
        return nn.Identity()
    if average_pooled:
        return nn.AvgPool2d(4 if stem == "large" else 2)
    return nn.MaxPool2d(3, 2, padding=1)
