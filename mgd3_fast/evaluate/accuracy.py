"""Top-1 accuracy on real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mgd3_fast.evaluate.colours import normalise

if TYPE_CHECKING:
    from mgd3_fast.evaluate.images import ImageSet

_LEAST_BATCH, _MOST_BATCH = 32, 250
_BATCH_AREA = 250 * 64 * 64  # pixels; the widest maps of a network are of the image's size


@torch.no_grad()
def count_correct(network: nn.Module, images: ImageSet, device: torch.device, bf16: bool = False) -> int:
    """Count the images whose label has the largest logit; leaves the network in evaluation mode.

    Args:
        network: The classifier, on `device`.
        images: Test images.
        device: Where.
        bf16: Run it under bfloat16 autocast.

    Returns:
        Number of images.
    """
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    batch = max(_LEAST_BATCH, min(_MOST_BATCH, _BATCH_AREA // images.pixels[0, 0].numel()))
    for indices in torch.split(torch.arange(len(images)), batch):
        pixels, labels = images.batch(indices, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(normalise(pixels.float() / 255))
        correct += (logits.argmax(1) == labels).sum()
    return int(correct)
