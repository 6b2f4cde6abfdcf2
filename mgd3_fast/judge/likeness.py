"""How close reconstructions and samples come to real images.

Shape letters: N images, R pixels a side, D values of a latent; of a class m samples, n training images and v
held-out images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets.spreading import spread
from mgd3_fast.metrics.neighbours import coverage_and_density, mean_of_nearest

Points = NDArray[np.float64]

_NEIGHBOURS = 5
_LEAST_ERROR = 1 / 12  # variance of rounding to whole levels: equal images are not infinitely alike


def reconstruction_error(images: Tensor, decoded: Tensor) -> tuple[float, float]:
    """PSNR in dB, 10 log10(255^2 / mean squared error over all images), and L1 in levels of 255.

    Args:
        images: uint8 `[N, 3, R, R]`.
        decoded: What an autoencoder made of them, likewise.
    """
    difference = images.float() - decoded.float()
    squared = max(_LEAST_ERROR, difference.square().mean().item())
    return 10 * math.log10(255**2 / squared), difference.abs().mean().item()


class ClassPoints(NamedTuple):
    """Latents of a class: samples `[m, D]`, all its training images `[n, D]`, held-out ones `[v, D]`."""

    samples: Points
    train: Points
    held_out: Points


class Likeness(NamedTuple):
    """Means over classes.

    Args:
        coverage: Share of held-out images that have a sample near them; see `coverage_and_density`.
        coverage_real: The same of as many training images in place of the samples.
        density: How crowded samples are where held-out images are.
        density_real: The same of training images.
        novelty: Distance from a sample to the nearest training image, over the same from a held-out image:
            1 is as new as real images, 0 a copy.
    """

    coverage: float
    coverage_real: float
    density: float
    density_real: float
    novelty: float


def likeness(classes: Iterable[ClassPoints]) -> Likeness:
    """Compare the samples of each class with real images of it.

    Training images that stand beside m samples are m evenly spread ones. A class of one held-out image has no
    coverage and no density; where none has, they are 0.
    """
    covering, novelties = [], []
    for points in classes:
        novelties.append(_novelty(points))
        if len(points.held_out) > 1:
            covering.append(_covering(points))
    means = np.mean(covering, axis=0) if covering else np.zeros(4)
    return Likeness(*map(float, [*means, np.mean(novelties)]))


def _covering(points: ClassPoints) -> tuple[float, ...]:
    """Coverage and coverage_real, density and density_real."""
    some = points.train[list(spread(len(points.train), len(points.samples)))]
    made, real = (coverage_and_density(each, points.held_out, _NEIGHBOURS) for each in (points.samples, some))
    return made[0], real[0], made[1], real[1]


def _novelty(points: ClassPoints) -> float:
    ours, theirs = (
        mean_of_nearest(each, points.train, 1).mean() for each in (points.samples, points.held_out)
    )
    return float(ours / max(theirs, np.finfo(np.float32).eps))
