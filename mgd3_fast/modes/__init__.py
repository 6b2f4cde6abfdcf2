"""Latents of a class become its modes: as many points of latent space as images are wanted."""

from mgd3_fast.modes.discovering import (
    check_ipc,
    classes_without_modes,
    discover_modes,
    latents_of,
    modes_key,
)
from mgd3_fast.modes.kmeans_runners import NO_RUNNER, RUNNER_NAMES, kmeans_runner
from mgd3_fast.modes.method import (
    KMEANS_METHOD_NAMES,
    METHOD_NAMES,
    Discovery,
    ModeDiscovery,
    choose_discovery,
    choose_runner,
    method_named,
)
from mgd3_fast.modes.mode_set import Modes, ModeSet, header_of
from mgd3_fast.modes.real_latents import HerdingDiscovery

__all__ = [
    "KMEANS_METHOD_NAMES",
    "METHOD_NAMES",
    "NO_RUNNER",
    "RUNNER_NAMES",
    "Discovery",
    "HerdingDiscovery",
    "ModeDiscovery",
    "ModeSet",
    "Modes",
    "check_ipc",
    "choose_discovery",
    "choose_runner",
    "classes_without_modes",
    "discover_modes",
    "header_of",
    "kmeans_runner",
    "latents_of",
    "method_named",
    "modes_key",
]
