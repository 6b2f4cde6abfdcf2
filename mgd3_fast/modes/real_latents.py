"""Modes that are latents of real images: drawn at random, or chosen for their mean.

Shape letters: n images of a class, K modes, D = C*h*w.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mgd3_fast.modes.clusters import check_samples, distinct_samples, few_distinct, nearest_centers, shares
from mgd3_fast.modes.mode_set import Modes


class RandomDiscovery:
    """Latents of `ipc` different images of the class, each as likely as any other: MGD3's Table 7."""

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Draw latents, which stay in the class's order; copies of an image count as one.

        As `ModeDiscovery.fit`; a weight is the share of the images nearest to the mode.
        """
        samples = check_samples(features, ipc)
        few = few_distinct(samples, ipc, enough=ipc)
        if few is not None:
            return few
        first, _ = distinct_samples(samples)
        drawn = torch.from_numpy(np.sort(np.random.default_rng(seed).choice(first, ipc, replace=False)))
        return _chosen(samples, drawn)


class HerdingDiscovery:
    """Images chosen one by one, each to bring the mean of the chosen ones closest to the class's mean."""

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Choose `ipc` different images (Welling 2009, in the form of Rebuffi et al. 2017, Algorithm 4).

        x_k = argmin_x |mu - (x + x_1 + ... + x_{k-1}) / k| over the images that are not chosen yet.

        As `ModeDiscovery.fit`, in order of choice; a weight is the share of the images nearest to the mode.
        The seed is of no use: nothing is random.
        """
        samples = check_samples(features, ipc)
        points = samples.double()
        mean, total = points.mean(0), torch.zeros_like(points[0])
        free = torch.ones(len(points), dtype=torch.bool)
        chosen: list[int] = []
        for number in range(1, ipc + 1):
            distances = (mean - (points + total) / number).square().sum(1)  # [n]
            best = int(distances.masked_fill(~free, float("inf")).argmin())
            chosen.append(best)
            free[best] = False
            total += points[best]
        return _chosen(samples, torch.tensor(chosen))


def _chosen(samples: Tensor, rows: Tensor) -> Modes:
    centers = samples[rows]
    return Modes(centers, shares(nearest_centers(samples, centers), len(rows)), rows)
