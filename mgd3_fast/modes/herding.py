"""Herding: real images whose running mean stays close to the class's mean.

Shape letters: n images of a class, K chosen ones (= ipc), D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mgd3_fast.modes.clusters import nearest_centers, shares
from mgd3_fast.modes.method import Modes


class HerdingDiscovery:
    """Images chosen one by one, each to bring the mean of the chosen ones closest to the class's mean."""

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Choose `ipc` different images (Welling 2009, in the form of Rebuffi et al. 2017, Algorithm 4).

        x_k = argmin_x |mu - (x + x_1 + ... + x_{k-1}) / k| over the images that are not chosen yet.

        Args:
            features: float32 `[n, D]`, n >= ipc.
            ipc: K.
            seed: Of no use: nothing is random.

        Returns:
            The chosen images in order of choice, and the share of the images nearest to each.

        Raises:
            ValueError: n < ipc.
        """
        if len(features) < ipc:
            raise ValueError(f"ipc must be at most the {len(features)} samples, got {ipc}")
        samples = features.double()
        mean, total = samples.mean(0), torch.zeros_like(samples[0])
        free = torch.ones(len(samples), dtype=torch.bool)
        chosen: list[int] = []
        for number in range(1, ipc + 1):
            distances = (mean - (samples + total) / number).square().sum(1)  # [n]
            best = int(distances.masked_fill(~free, float("inf")).argmin())
            chosen.append(best)
            free[best] = False
            total += samples[best]
        rows = torch.tensor(chosen)
        centers = features[rows].float()
        return Modes(centers, shares(nearest_centers(features.float(), centers), ipc), rows)
