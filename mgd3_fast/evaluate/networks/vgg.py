"""VGG11 twice: torchvision's, and GLaD's with instance norm and one linear layer.

Shape letters: B images, N classes, R input side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgd3_fast.evaluate.networks.normalisation import normalisation

# Convolutions of each stage; a stage ends with a 2x2 maximum.
_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11(nn.Module):
    """torchvision's VGG11 without batch norm, with its parameter names and starting weights.

    Args:
        num_classes: N.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_stages(None, len(_STAGES)))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        maps = self.avgpool(self.features(images))  # [B, 512, 7, 7]
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits


class GladVGG11(nn.Module):
    """GLaD's VGG11: instance norm, the largest of each of 7x7 regions, one linear layer.

    Up to 32 pixels it is GLaD's CIFAR version, whose last map of 1x1 goes to the linear layer as it is; below
    32 pixels the last pooling, which would leave nothing, is left out.

    Args:
        num_classes: N.
        size: R, at least 16.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        poolings = min(len(_STAGES), size.bit_length() - 1)
        side = size >> poolings if size <= 32 else 7
        regions = [] if size <= 32 else [nn.AdaptiveMaxPool2d(side)]
        self.features = nn.Sequential(*_stages("instance", poolings), *regions)
        self.classifier = nn.Linear(512 * side * side, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        logits: Tensor = self.classifier(torch.flatten(self.features(images), 1))
        return logits


def _stages(norm: str | None, poolings: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for number, widths in enumerate(_STAGES):
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [] if norm is None else [normalisation(norm, width)]
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers += [nn.MaxPool2d(2)] if number < poolings else []
    return layers
