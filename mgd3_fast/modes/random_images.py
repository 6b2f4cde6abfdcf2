"""Real images drawn at random, the baseline of MGD3's Table 7.

Shape letters: n images of a class, K modes, D = C*h*w.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mgd3_fast.modes.clusters import (
    check_samples,
    distinct_samples,
    few_distinct,
    nearest_centers,
    shares,
)
from mgd3_fast.modes.method import Modes


class RandomDiscovery:
    """Latents of `ipc` different images of the class, each as likely as any other."""

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Draw the latents of `ipc` images; copies of an image count as one.

        Args:
            features: float32 [n, D], n >= ipc.
            ipc: K.
            seed: 0..2^32-1.

        Returns:
            Real latents in the class's order, and the share of the images nearest to each.

        Raises:
            ValueError: n < ipc.
        """
        samples = check_samples(features, ipc)
        few = few_distinct(samples, ipc, enough=ipc)
        if few is not None:
            return few
        first, _ = distinct_samples(samples)
        drawn = torch.from_numpy(np.sort(np.random.default_rng(seed).choice(first, ipc, replace=False)))
        return Modes(samples[drawn], shares(nearest_centers(samples, samples[drawn]), ipc), drawn)
