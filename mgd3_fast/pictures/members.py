"""What the pictures of a class show: its modes, the latents each stands for, and the nearest of them.

Shape letters: n images of a class, K modes, D = C*h*w, M images a mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_NEAREST = 8


@dataclass(frozen=True)
class ModeMembers:
    """Modes of a class among its latents.

    Args:
        title: Class, method, engine and sizes in one line.
        latents: float32 [n, D].
        modes: float32 [K, D].
        weights: float32 [K], share of the class that each mode stands for.
        source_rows: int64 [K], row of the latent nearest to each mode.
        labels: int64 [n], the mode nearest to each latent.
        nearest: int64 [K, M], rows of the latents nearest to each mode, the nearest first.
        distances: float32 [K, M], root mean square difference of these from the mode, in units of latents.
    """

    title: str
    latents: Tensor
    modes: Tensor
    weights: Tensor
    source_rows: Tensor
    labels: Tensor
    nearest: Tensor
    distances: Tensor


def mode_members(
    title: str, latents: Tensor, modes: Tensor, weights: Tensor, source_rows: Tensor
) -> ModeMembers:
    """Find which latents belong to which mode; of equally near latents the first one comes first."""
    squares = torch.stack([(latents.double() - mode).square().mean(1) for mode in modes.double()])  # [K, n]
    ordered = squares.sort(dim=1, stable=True)
    most = min(MOST_NEAREST, len(latents))
    nearest, distances = ordered.indices[:, :most], ordered.values[:, :most].sqrt().float()
    return ModeMembers(title, latents, modes, weights, source_rows, squares.argmin(0), nearest, distances)
