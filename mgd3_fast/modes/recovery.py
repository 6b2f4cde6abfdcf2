"""Whether images ended where guidance pulled them: nearest to their own mode among those of the class.

Shape letters: m synthetic images of a class, K modes of it, D features.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Points = NDArray[np.float64]


def mode_recovery(points: Points, modes: Points, own: NDArray[np.int64]) -> float:
    """Share of images whose nearest mode is the one they were pulled to; 1 / K by chance.

    Args:
        points: `[m, D]`.
        modes: `[K, D]`.
        own: `[m]`, each image's mode, from 0 to K - 1.

    Returns:
        0..1; NaN for a single mode, which every image is nearest to.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(modes) < 2:
        return math.nan
    nearest = NearestNeighbors(n_neighbors=1).fit(modes).kneighbors(points)[1][:, 0]
    return float((nearest == own).mean())


class RecoveryCount:
    """Counts, while images are made, how many latents end nearest to their own mode."""

    def __init__(self) -> None:
        self._recovered = self._counted = 0

    def add(self, latent: Tensor, modes: Tensor, own: int) -> None:
        """Count a latent `[C, h, w]` that was pulled to mode `own` of its class's `[K, C, h, w]`."""
        distances = (modes - latent).flatten(1).norm(dim=1)  # [K]
        self._recovered += int(distances.argmin()) == own
        self._counted += len(modes) > 1

    def include(self, other: RecoveryCount) -> None:
        """Count what another one has counted."""
        self._recovered += other._recovered
        self._counted += other._counted

    @property
    def share(self) -> float | None:
        """0..1; None where nothing was counted, or a class has one mode."""
        return self._recovered / self._counted if self._counted else None
