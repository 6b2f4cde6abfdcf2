"""What finds the modes of a class, and the methods known by name.

A further method is a file with a class that has `fit`, and its line in `_METHODS`.

Shape letters: n images of a class, K modes (= ipc), C channels, h w latent size, D = C*h*w.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor

from mgd3_fast.errors import UserError

if TYPE_CHECKING:
    from mgd3_fast.modes.kmeans_runners import KMeansRunner

_KMEANS_METHODS = {
    "kmeans": "mgd3_fast.modes.kmeans:KMeansDiscovery",
    "kmeans-closest": "mgd3_fast.modes.kmeans:ClosestDiscovery",
    "kmeans-pooled": "mgd3_fast.modes.kmeans:PooledDiscovery",
}
_METHODS = {
    **_KMEANS_METHODS,
    "gmm": "mgd3_fast.modes.gmm:GaussianMixtureDiscovery",
    "gmm-pca": "mgd3_fast.modes.gmm:ProjectedMixtureDiscovery",
    "dbscan": "mgd3_fast.modes.dbscan:DbscanDiscovery",
    "spectral": "mgd3_fast.modes.spectral:SpectralDiscovery",
    "random": "mgd3_fast.modes.real_latents:RandomDiscovery",
}
METHOD_NAMES = tuple(_METHODS)
KMEANS_METHOD_NAMES = tuple(_KMEANS_METHODS)


@dataclass(frozen=True)
class Modes:
    """Modes of one class.

    Args:
        centers: float32 [K, D], in the units of the diffusion latents.
        weights: float32 [K], share of the class's images that each mode stands for; they add up to 1.
        source_index: int64 [K], row of the sample nearest to each mode.
    """

    centers: Tensor
    weights: Tensor
    source_index: Tensor


class ModeDiscovery(Protocol):
    """Finds modes; must give the same bytes for the same arguments, whatever the machine's thread count."""

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Find the modes of a class.

        Args:
            features: float32 [n, D], n >= ipc.
            ipc: K.
            seed: 0..2^32-1.

        Returns:
            Modes, their weights, and the sample nearest to each.

        Raises:
            ValueError: n < ipc.
        """
        ...


def method_named(
    name: str, *, latent_shape: tuple[int, int, int] | None = None, runner: KMeansRunner | None = None
) -> ModeDiscovery:
    """Make a method known by name.

    Args:
        name: One of `METHOD_NAMES`.
        latent_shape: (C, h, w) of what a row of features is; `kmeans-pooled` needs it.
        runner: What runs the K-means of `KMEANS_METHOD_NAMES`; scikit-learn's by default.

    Raises:
        UserError: No such method.
        ValueError: The method needs a latent shape.
    """
    if name not in _METHODS:
        raise UserError(f"discovery must be one of {', '.join(METHOD_NAMES)}, got {name!r}")
    module, _, made = _METHODS[name].partition(":")
    method = getattr(import_module(module), made)
    return cast(ModeDiscovery, method(runner, latent_shape) if name in _KMEANS_METHODS else method())
