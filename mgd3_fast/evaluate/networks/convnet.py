"""The ConvNet of the distillation literature: equal blocks, no global pooling.

Shape letters: B images, N classes, W channels, R input side, r side of the last map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.networks.normalisation import normalisation


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution with bias, norm, ReLU and 2x2 average pooling, then one linear layer.

    Args:
        num_classes: N.
        size: R; the linear layer takes every position of the last map.
        depth: Number of blocks; the side is halved, rounding down, in each.
        width: Channels of each block.
        norm: "instance" or "batch".

    Raises:
        UserError: The last map would be empty.
    """

    def __init__(
        self, num_classes: int, size: int, *, depth: int, width: int = 128, norm: str = "instance"
    ) -> None:
        super().__init__()
        side = size >> depth
        if depth < 1 or side < 1:
            raise UserError(
                f"depth of a convnet must be from 1 to {size.bit_length() - 1} for {size} px, got {depth}"
            )
        blocks: list[nn.Module] = []
        for channels in [3, *[width] * (depth - 1)]:
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            blocks += [convolution, normalisation(norm, width), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * side * side, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, R, R]; returns logits [B, N]."""
        logits: Tensor = self.classifier(torch.flatten(self.features(images), 1))  # [B, W*r*r] -> [B, N]
        return logits
