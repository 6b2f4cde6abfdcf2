"""How the modes of a run are found: decided once, and handed on as one thing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mgd3_fast.modes.kmeans_runners import NO_RUNNER, RUNNER_NAMES, choose_runner
from mgd3_fast.modes.method import KMEANS_METHOD_NAMES
from mgd3_fast.modes.mode_set import runner_of_file

if TYPE_CHECKING:
    from mgd3_fast.config import DiscoverConfig


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


def choose_discovery(config: DiscoverConfig, device: torch.device, given: Path | None = None) -> Discovery:
    """Decide how the modes of a run are found; K-means on auto is run by what made the given modes, if any.

    Args:
        config: Method, ipc, seed and K-means runner.
        device: Where the networks run.
        given: File of modes that the run takes up, if any.

    Returns:
        The decision.

    Raises:
        UserError: The runner does not fit the method, the number of modes or the machine.
    """
    method, ipc, seed = config.discovery, config.ipc, config.seed
    runner, reason = choose_runner(config.kmeans, method, ipc, device)
    made_by = runner_of_file(given) if given else None
    if config.kmeans == "auto" and runner != NO_RUNNER and made_by in RUNNER_NAMES:
        runner, reason = made_by, "the modes that are given are its"
    return Discovery(method=method, ipc=ipc, seed=seed, runner=runner, reason=reason, device=device)
