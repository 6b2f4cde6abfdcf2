"""AlexNet twice: torchvision's, and GLaD's for small images.

Shape letters: B images, N classes, R input side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AlexNet(nn.Module):
    """torchvision's AlexNet, with its parameter names; R is at least 63.

    Args:
        num_classes: N.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 64, 11, stride=4, padding=2),
            nn.MaxPool2d(3, 2),
            *_convolution(64, 192, 5, padding=2),
            nn.MaxPool2d(3, 2),
            *_convolution(192, 384, 3, padding=1),
            *_convolution(384, 256, 3, padding=1),
            *_convolution(256, 256, 3, padding=1),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        maps = self.avgpool(self.features(images))  # [B, 256, 6, 6]
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits


class GladAlexNet(nn.Module):
    """GLaD's AlexNet: five unstrided convolutions, three poolings, one linear layer over the last map.

    Args:
        num_classes: N.
        size: R, at least 8.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 128, 5, padding=2),
            nn.MaxPool2d(2),
            *_convolution(128, 192, 5, padding=2),
            nn.MaxPool2d(2),
            *_convolution(192, 256, 3, padding=1),
            *_convolution(256, 192, 3, padding=1),
            *_convolution(192, 192, 3, padding=1),
            nn.MaxPool2d(2),
        )
        self.fc = nn.Linear(192 * (size // 8) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        logits: Tensor = self.fc(torch.flatten(self.features(images), 1))
        return logits


def _convolution(channels: int, width: int, kernel: int, *, stride: int = 1, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU(inplace=True)]
