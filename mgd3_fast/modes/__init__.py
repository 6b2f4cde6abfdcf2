"""Latents of a class become its modes: as many points of latent space as images are wanted."""

from mgd3_fast.modes.discovering import check_ipc, classes_without_modes, discover_modes, modes_key
from mgd3_fast.modes.method import METHOD_NAMES, ModeDiscovery, Modes, discovery
from mgd3_fast.modes.mode_set import ModeSet

__all__ = [
    "METHOD_NAMES",
    "ModeDiscovery",
    "ModeSet",
    "Modes",
    "check_ipc",
    "classes_without_modes",
    "discover_modes",
    "discovery",
    "modes_key",
]
