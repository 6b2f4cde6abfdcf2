"""Latents of a class become its modes: as many points of latent space as images are wanted."""

from mgd3_fast.modes.discovering import check_ipc, classes_without_modes, discover_modes, modes_key
from mgd3_fast.modes.kmeans_engines import (
    ENGINE_NAMES,
    NO_ENGINE,
    EngineChoice,
    KMeansEngine,
    choose_engine,
    kmeans_engine,
)
from mgd3_fast.modes.method import (
    KMEANS_METHOD_NAMES,
    METHOD_NAMES,
    BatchedDiscovery,
    ModeDiscovery,
    Modes,
    discovery,
)
from mgd3_fast.modes.mode_set import ModeSet, engine_of_file

__all__ = [
    "ENGINE_NAMES",
    "KMEANS_METHOD_NAMES",
    "METHOD_NAMES",
    "NO_ENGINE",
    "BatchedDiscovery",
    "EngineChoice",
    "KMeansEngine",
    "ModeDiscovery",
    "ModeSet",
    "Modes",
    "check_ipc",
    "choose_engine",
    "classes_without_modes",
    "discover_modes",
    "discovery",
    "engine_of_file",
    "kmeans_engine",
    "modes_key",
]
