"""Reading an `AutoencoderKL` from a diffusers folder or from a single file of the original layout."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mgd3_engine.autoencoder import (
    KL_F8,
    AutoencoderKL,
    KLConfig,
    filled_network,
    first_stage,
    from_original,
    is_original,
    present_names,
)
from mgd3_engine.files.weights import read_json, read_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.model_weights import complete_or_refused, read_model_weights


def vae_config(path: Path) -> KLConfig:
    """Read the settings of the autoencoder at `path`: its `config.json`, or those of KL-f8 for a lone file.

    Raises:
        UserError: The settings are those of another class, or of a network that is not implemented.
        ValueError: The file is damaged.
    """
    settings_file = (path if path.is_dir() else path.parent) / "config.json"
    if not settings_file.is_file():
        return KL_F8
    settings = read_json(settings_file)
    if settings.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise UserError(f"{settings_file} must be of an AutoencoderKL, got {settings['_class_name']!r}")
    try:
        return KLConfig.of(settings)
    except ValueError as error:
        raise UserError(f"{settings_file} cannot be used: {error}") from None


def load_vae(path: Path) -> AutoencoderKL:
    """Load an `AutoencoderKL` without a second copy of its weights in memory.

    Args:
        path: Folder with `config.json` and weights, or a single file: in diffusers' names, or in the original
            ones ("encoder.down.0.block.0...", "first_stage_model." before them or not).

    Returns:
        The float32 network on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The files are damaged or do not fit together; one line naming `path`.
    """
    config, weights = vae_config(path), read_vae(path)
    with complete_or_refused(path, "AutoencoderKL"):
        network = filled_network(config, weights)
    assert isinstance(network, AutoencoderKL)
    return network


def read_vae(path: Path) -> dict[str, Tensor]:
    """Read the weights of an `AutoencoderKL`.

    Args:
        path: As of `load_vae`.

    Returns:
        float32 tensors by diffusers' names, mapped from the files where these are float32.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The files are damaged.
    """
    weights = read_model_weights(path) if path.is_dir() else read_weights(path)[0]
    weights = from_original(first_stage(weights)) if is_original(weights) else present_names(weights)
    return {name: tensor.to(torch.float32) for name, tensor in weights.items()}
