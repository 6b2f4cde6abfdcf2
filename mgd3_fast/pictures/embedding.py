"""Maps of a class: real and synthetic images together in a plane.

Shape letters: n real images, m synthetic images, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

_PRINCIPAL_COMPONENTS = 50
_PERPLEXITY = 30.0


def joint_map(
    real: NDArray[np.float32], synthetic: Sequence[NDArray[np.float32]], seed: int, *, reduced: bool = True
) -> tuple[Points, list[Points]]:
    """Embed real images and those of several folders in one plane by t-SNE (MGD3, figures 5, 6 and 8).

    As van der Maaten & Hinton (2008) do, features are first reduced to 50 principal components. The plane's
    unit is the larger side of the box around the real images, so that distances are comparable between
    classes, and between runs with the same real images.

    Args:
        real: Features `[n, D]`, n of at least 2.
        synthetic: `[m, D]` of each folder.
        seed: Of the reduction and the map.
        reduced: False leaves the features as they are.

    Returns:
        `[n, 2]`, and `[m, 2]` of each folder. Two calls with the same arguments agree; another folder in the
        list moves all points.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    together = np.concatenate([real, *synthetic])
    components = min(_PRINCIPAL_COMPONENTS, *together.shape)
    if reduced and components < together.shape[1]:
        together = PCA(components, random_state=seed).fit_transform(together)
    perplexity = min(_PERPLEXITY, max(1.0, (len(together) - 1) / 3))
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(together)
    ends = np.cumsum([len(real), *(len(points) for points in synthetic)])
    parts = np.split(placed.astype(np.float64), ends[:-1])
    unit = float(np.ptp(parts[0], axis=0).max()) or 1.0
    scaled = [part / unit for part in parts]
    return scaled[0], scaled[1:]
