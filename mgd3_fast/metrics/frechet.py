"""The Fréchet distance between two sets of features, from moments that are added up batch by batch.

Shape letters: B rows of a batch, D features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Mean and covariance of rows that come in batches, in float64 (Chan et al. 1983).

    Args:
        features: D.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = np.zeros(features)
        self._scatter = np.zeros((features, features))

    def add(self, rows: NDArray[np.floating]) -> None:
        """Take up `[B, D]` rows."""
        if not len(rows):
            return
        batch = np.asarray(rows, dtype=np.float64)
        mean = batch.mean(axis=0)
        centred = batch - mean
        total, shift = self.count + len(batch), mean - self.mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(batch) / total)
        self.mean += shift * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> NDArray[np.float64]:
        """`[D, D]`, over count - 1.

        Raises:
            ValueError: Fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"rows must be at least 2 for a covariance, got {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(real: Moments, rows: NDArray[np.floating]) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, Eq. 6).

    It is biased by the number of rows: sets of a few images are compared at equal size only.

    Args:
        real: Moments of one set.
        rows: The other set, `[m, D]`.

    Returns:
        The squared distance, in the features' units.

    Raises:
        ValueError: A set has fewer than two rows.
    """
    made = Moments(rows.shape[1])
    made.add(rows)
    first, second = real.covariance, made.covariance
    # tr (S_1 S_2)^(1/2) is the sum of the roots of the eigenvalues of S_1 S_2. With S_2 = F^T F they are
    # those of F S_1 F^T, as many as there are rows; with R R = S_1 those of R S_2 R, as many as features.
    if len(rows) <= rows.shape[1]:
        factor = (np.asarray(rows, dtype=np.float64) - made.mean) / np.sqrt(made.count - 1)  # [m, D]
        product = factor @ first @ factor.T
    else:
        values, vectors = np.linalg.eigh(first)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        product = root @ second @ root
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0.0))
    shift = real.mean - made.mean
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2.0 * roots.sum())
