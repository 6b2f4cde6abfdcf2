"""Small tables made on the CPU, sent to where images are without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def send(table: Tensor, device: torch.device) -> Tensor:
    """Bring a tensor, which is not changed afterwards, to a device; a GPU goes on working meanwhile.

    A copy from memory that is not pinned would wait until the GPU has done all of its work.
    """
    if device.type == "cuda" and table.device.type == "cpu":
        return table.pin_memory().to(device, non_blocking=True)
    return table.to(device)
