"""Autoencoders between images and latents (Rombach et al. 2022): networks, settings, layouts of weights."""

from __future__ import annotations

from mgd3_engine.autoencoder.config import KL_F8, AutoencoderConfig, KLConfig, VQConfig
from mgd3_engine.autoencoder.layouts import first_stage, from_original, is_original, present_names
from mgd3_engine.autoencoder.networks import AutoencoderKL, VQModel, filled_network

__all__ = [
    "KL_F8",
    "AutoencoderConfig",
    "AutoencoderKL",
    "KLConfig",
    "VQConfig",
    "VQModel",
    "filled_network",
    "first_stage",
    "from_original",
    "is_original",
    "present_names",
]
