"""How modes are found: the methods known by name, what runs their K-means, and what a run decides of it.

A further method is a file with a class that has `fit`, and its line in `_METHODS`.

Shape letters: n images of a class, K modes (= ipc), C channels, h w latent size, D = C*h*w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from mgd3_fast.errors import UserError
from mgd3_fast.modes.kmeans_runners import (
    MOST_TRITON_CLUSTERS,
    NO_RUNNER,
    RUNNER_NAMES,
    KMeansRunner,
    without_cuml,
)
from mgd3_fast.modes.mode_set import Modes

if TYPE_CHECKING:
    from mgd3_fast.config import DiscoverConfig

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


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """How modes are found; all of it but the device decides which they are.

    Args:
        method: Name of the discovery method; see `METHOD_NAMES`.
        ipc: Modes per class, at most the images of the smallest class.
        seed: Seed of the method, the same for each class, as the authors do.
        runner: Name of what runs the K-means of a method that has one; see `choose_runner`.
        reason: Why it is this one.
        device: Where a runner for GPUs runs.
    """

    method: str = "kmeans"
    ipc: int = 10
    seed: int = 0
    runner: str = "sklearn"
    reason: str = "unless another is named"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def kmeans(self) -> str:
        """Name of the K-means runner; a method without K-means has none, whatever is named."""
        return self.runner if self.method in KMEANS_METHOD_NAMES else NO_RUNNER


def choose_discovery(
    config: DiscoverConfig, device: torch.device, given: Mapping[str, str] | None = None
) -> Discovery:
    """Decide how the modes of a run are found.

    Args:
        config: Method, ipc, seeds and K-means runner.
        device: Where the networks run.
        given: Header of a file of modes that is taken up: its K-means runner wins over what is asked for, and
            its seed over `--seed`.

    Raises:
        UserError: The runner does not fit the method, the number of modes or the machine.
    """
    given = given or {}
    method, ipc, seed = config.discovery, config.ipc, config.discovery_seed
    if seed is None:
        seed = int(given.get("seed", config.seed))
    runner, reason = choose_runner(config.kmeans, method, ipc, device)
    made_by = given.get("kmeans")
    if runner != NO_RUNNER and made_by in RUNNER_NAMES:
        runner, reason = made_by, "the modes that are given are its"
    return Discovery(method=method, ipc=ipc, seed=seed, runner=runner, reason=reason, device=device)


def choose_runner(wanted: str, method: str, ipc: int, device: torch.device) -> tuple[str, str]:
    """Decide what runs the K-means of a method.

    Args:
        wanted: "auto" or one of `RUNNER_NAMES`.
        method: Name of the discovery method.
        ipc: Modes per class.
        device: Where the networks run, and a runner of GPUs.

    Returns:
        A runner and why it is this one: what was named, if it can run; for "auto" the batched kernels on CUDA
        and scikit-learn elsewhere; `NO_RUNNER` for a method without K-means.

    Raises:
        UserError: The runner does not fit the method, the number of modes or the machine.
    """
    if wanted not in ("auto", *RUNNER_NAMES):
        raise UserError(f"kmeans must be one of auto, {', '.join(RUNNER_NAMES)}, got {wanted!r}")
    if method not in KMEANS_METHOD_NAMES:
        if wanted != "auto":
            raise UserError(
                f"kmeans must be auto with discovery {method}, which has no choice of runner, got {wanted!r}"
            )
        return NO_RUNNER, f"{method} has no choice of runner"
    if wanted == "auto":
        return _best_runner(ipc, device)
    if wanted == "cuml":
        if device.type != "cuda":
            allowed = "auto, sklearn or triton"
            raise UserError(f"kmeans must be {allowed} on {device.type}, got 'cuml', which needs CUDA")
        missing = [package for package in ("cuml", "cupy") if find_spec(package) is None]
        if missing:
            raise without_cuml(f"no module named {missing[0]}")
    if wanted == "triton" and ipc > MOST_TRITON_CLUSTERS:
        raise UserError(f"ipc must be at most {MOST_TRITON_CLUSTERS} with kmeans triton, got {ipc}")
    return wanted, "asked for"


def _best_runner(ipc: int, device: torch.device) -> tuple[str, str]:
    if device.type != "cuda":
        return "sklearn", "no CUDA device"
    if find_spec("triton") is None:
        return "sklearn", "Triton is not installed"
    if ipc > MOST_TRITON_CLUSTERS:
        return "sklearn", f"the batched kernels make at most {MOST_TRITON_CLUSTERS} clusters"
    return "triton", "all classes at once on CUDA"
