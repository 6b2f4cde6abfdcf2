"""Diffusers' `UNet2DConditionModel` from its folder or from tensors, without a second copy of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import read_model_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.refusing import complete_or_refused

_CLASS = "UNet2DConditionModel"
_FURTHER_INPUTS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


def load_unet(folder: Path) -> Any:
    """Load a diffusers `UNet2DConditionModel` without a second copy of its weights in memory.

    Args:
        folder: `config.json` and weights.

    Returns:
        The network as its file holds it, on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: The weights are missing.
        UserError: The files are damaged, do not fit together, or the network wants more than a context.
    """
    settings = unet_settings(read_json(folder / "config.json"), str(folder))
    # Diffusers' `from_pretrained` fills a tensor that the file lacks with whatever is in memory, and warns.
    with complete_or_refused(folder, _CLASS):
        return filled_unet(settings, read_model_weights(folder))


def unet_settings(settings: dict[str, Any], place: str) -> dict[str, Any]:
    """Refuse a U-Net that `ContextUNet` cannot call.

    Args:
        settings: Its `config.json`.
        place: Where that lies, for messages.

    Returns:
        The same settings.

    Raises:
        UserError: It is of another class, or has further inputs.
    """
    if settings.get("_class_name", _CLASS) != _CLASS:
        raise UserError(f"unet of {place} must be a {_CLASS}, got a {settings['_class_name']!r}")
    for name in _FURTHER_INPUTS:
        if settings.get(name) is not None:
            raise UserError(
                f"unet of {place} must take latents, timesteps and text alone, got one with {name}"
                f" {settings[name]!r}"
            )
    return settings


def filled_unet(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Build a `UNet2DConditionModel` around weights that are there already.

    Args:
        settings: Its `config`.
        weights: By diffusers' names; the network's own from here on.

    Returns:
        The network, in evaluation mode, without gradients.

    Raises:
        RuntimeError: The weights are not those of such a network.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(settings)
    unet.load_state_dict(weights, assign=True)
    return unet.eval().requires_grad_(False)
