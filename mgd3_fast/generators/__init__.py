"""Model families behind one seam: network, autoencoder, conditioning, schedule and defaults."""

from __future__ import annotations

from mgd3_fast.config import SamplingDefaults
from mgd3_fast.generators.autoencoder import DEFAULT_VAE, KLAutoencoder, VQAutoencoder
from mgd3_fast.generators.base import Generator, Network, place_network
from mgd3_fast.generators.batched_autoencoder import Autoencoder
from mgd3_fast.generators.classes import class_ids
from mgd3_fast.generators.folder import amend_description, load_generator_folder, save_generator
from mgd3_fast.generators.registry import GENERATOR_NAMES, load_generator
from mgd3_fast.generators.stable_diffusion import TextGenerator, for_run
from mgd3_fast.generators.trained_schedule import ScheduleSettings

__all__ = [
    "DEFAULT_VAE",
    "GENERATOR_NAMES",
    "Autoencoder",
    "Generator",
    "KLAutoencoder",
    "Network",
    "SamplingDefaults",
    "ScheduleSettings",
    "TextGenerator",
    "VQAutoencoder",
    "amend_description",
    "class_ids",
    "for_run",
    "load_generator",
    "load_generator_folder",
    "place_network",
    "save_generator",
]
