"""Small tables made on the CPU, sent to where images are without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def send(table: Tensor, device: torch.device) -> Tensor:
    """Bring a tensor to a device; a GPU goes on with what it was asked before.

    A copy from memory that is not pinned would wait until the GPU has done all of its work.

    Args:
        table: On the CPU or already on the device; not changed afterwards.
        device: Where it is wanted.

    Returns:
        The tensor there.
    """
    if device.type == "cuda" and table.device.type == "cpu":
        return table.pin_memory().to(device, non_blocking=True)
    return table.to(device)
