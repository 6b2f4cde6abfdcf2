"""Convolutions one after another, then linear layers over the last map: ConvNet, AlexNet and VGG11.

Shape letters: B images, N classes, R input side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mgd3_fast.errors import UserError

# Convolutions of each stage of VGG11; a stage ends with a 2x2 maximum.
_VGG11_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class PlainNetwork(nn.Module):
    """Convolutions, then linear layers over every place of the last map.

    Args:
        features: From images `[B, 3, R, R]` to the last map.
        head: From that map, flattened, to logits `[B, N]`.
        head_name: What its parameters are called.
    """

    def __init__(self, features: Sequence[nn.Module], head: nn.Module, head_name: str = "classifier") -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self._head_name = head_name
        self.add_module(head_name, head)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        logits: Tensor = self.get_submodule(self._head_name)(torch.flatten(self.features(images), 1))
        return logits


def normalisation(norm: str, channels: int) -> nn.Module:
    """A layer with scale and offset, eps 1e-5.

    Args:
        norm: "instance": group normalisation with as many groups as channels, the same in training and
            evaluation; "batch": batch normalisation with running statistics.
        channels: Channels of the input.
    """
    return nn.GroupNorm(channels, channels) if norm == "instance" else nn.BatchNorm2d(channels)


def convnet(num_classes: int, size: int, *, depth: int, width: int, norm: str) -> nn.Module:
    """The ConvNet of the distillation literature: blocks of convolution, norm, ReLU and 2x2 average pooling.

    Args:
        num_classes: N.
        size: R; its half, rounded down, is the side of the map after a block, and so on.
        depth: Number of blocks.
        width: Channels of each block.
        norm: "instance" or "batch".

    Raises:
        UserError: The last map would be empty.
    """
    side = size >> depth
    if depth < 1 or side < 1:
        raise UserError(
            f"depth of a convnet must be from 1 to {size.bit_length() - 1} for {size} px, got {depth}"
        )
    blocks: list[nn.Module] = []
    for channels in [3, *[width] * (depth - 1)]:
        convolution = nn.Conv2d(channels, width, 3, padding=1)
        blocks += [convolution, normalisation(norm, width), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
    return PlainNetwork(blocks, nn.Linear(width * side * side, num_classes))


def alexnet(num_classes: int, size: int) -> nn.Module:
    """torchvision's AlexNet, with its parameter names; R is at least 63."""
    _check_size("alexnet", size, 63)
    features = [
        *_convolution(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *_convolution(64, 192, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *_convolution(192, 384, 3, padding=1),
        *_convolution(384, 256, 3, padding=1),
        *_convolution(256, 256, 3, padding=1),
        nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d(6),
    ]
    wide = [nn.Dropout(0.5), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True)]
    wide += [nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(inplace=True)]
    return PlainNetwork(features, nn.Sequential(*wide, nn.Linear(4096, num_classes)))


def glad_alexnet(num_classes: int, size: int) -> nn.Module:
    """GLaD's AlexNet: unstrided convolutions, one linear layer; R is at least 8."""
    _check_size("alexnet-glad", size, 8)
    features = [
        *_convolution(3, 128, 5, padding=2),
        nn.MaxPool2d(2),
        *_convolution(128, 192, 5, padding=2),
        nn.MaxPool2d(2),
        *_convolution(192, 256, 3, padding=1),
        *_convolution(256, 192, 3, padding=1),
        *_convolution(192, 192, 3, padding=1),
        nn.MaxPool2d(2),
    ]
    return PlainNetwork(features, nn.Linear(192 * (size // 8) ** 2, num_classes), "fc")


def vgg11(num_classes: int, size: int) -> nn.Module:
    """torchvision's VGG11 without batch norm, its parameter names and starting weights; R is at least 32."""
    _check_size("vgg11", size, 32)
    features = [*_vgg11_features(None, len(_VGG11_STAGES)), nn.AdaptiveAvgPool2d(7)]
    wide = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    wide += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    network = PlainNetwork(features, nn.Sequential(*wide, nn.Linear(4096, num_classes)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


def glad_vgg11(num_classes: int, size: int) -> nn.Module:
    """GLaD's VGG11: instance norm, the largest of each of 7x7 regions, one linear layer; R is at least 16.

    Up to 32 pixels it is GLaD's CIFAR version, whose last map of 1x1 goes to the linear layer as it is; below
    32 pixels the last pooling, which would leave nothing, is left out.
    """
    _check_size("vgg11-glad", size, 16)
    poolings = min(len(_VGG11_STAGES), size.bit_length() - 1)
    side = size >> poolings if size <= 32 else 7
    regions = [] if size <= 32 else [nn.AdaptiveMaxPool2d(side)]
    features = [*_vgg11_features("instance", poolings), *regions]
    return PlainNetwork(features, nn.Linear(512 * side * side, num_classes))


def _check_size(name: str, size: int, smallest: int) -> None:
    if size < smallest:
        raise UserError(f"size must be at least {smallest} for {name}, got {size}")


def _convolution(channels: int, width: int, kernel: int, *, stride: int = 1, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU(inplace=True)]


def _vgg11_features(norm: str | None, poolings: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for number, widths in enumerate(_VGG11_STAGES):
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [] if norm is None else [normalisation(norm, width)]
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers += [nn.MaxPool2d(2)] if number < poolings else []
    return layers
