"""One sha256 for a network, whatever file its weights came in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_digest(weights: Mapping[str, Tensor], settings: str) -> str:
    """Hash names, shapes and bytes of the weights, in the order of their names.

    Args:
        weights: Tensors of any dtype, on any device.
        settings: Whatever else decides what the network computes.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(settings.encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"|{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
