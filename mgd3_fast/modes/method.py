"""What finds the modes of a class, and the methods known by name.

A further method is a file with a class that has `fit`, and its line in `_METHODS`.

Shape letters: n images of a class, K modes (= ipc), D = C*H*W.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from torch import Tensor

from mgd3_fast.errors import UserError

_METHODS = {"kmeans": "mgd3_fast.modes.kmeans:KMeansDiscovery"}
METHOD_NAMES = tuple(_METHODS)


@dataclass(frozen=True)
class Modes:
    """Modes of one class.

    Args:
        centers: float32 [K, D], in the units of the diffusion latents.
        weights: float32 [K], share of the class's images in each cluster; they add up to 1.
        source_index: int64 [K], row of the sample nearest to each mode.
    """

    centers: Tensor
    weights: Tensor
    source_index: Tensor


class ModeDiscovery(Protocol):
    """Finds modes; must give the same bytes for the same arguments, whatever the machine's thread count."""

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Find `ipc` modes among float32 features [n, D], n >= ipc."""
        ...


def discovery(name: str) -> ModeDiscovery:
    """Make a method known by name.

    Args:
        name: One of `METHOD_NAMES`.

    Returns:
        The method.

    Raises:
        UserError: No such method.
    """
    if name not in _METHODS:
        raise UserError(f"discovery must be one of {', '.join(METHOD_NAMES)}, got {name!r}")
    module, _, made = _METHODS[name].partition(":")
    return cast(ModeDiscovery, getattr(import_module(module), made)())
