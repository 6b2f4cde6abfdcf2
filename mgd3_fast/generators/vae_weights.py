"""Reading a diffusers `AutoencoderKL` from its folder or from a single file of the original layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.dit.weight_files import read_json, read_sharded_weights, read_weights
from mgd3_fast.errors import UserError

KL_F8: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": 0.18215,
}
"""Architecture of Stable Diffusion's autoencoder (Rombach et al. 2022, f = 8), and of its fine-tunes."""

_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
_OLD_ATTENTION_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def vae_config(path: Path) -> dict[str, Any]:
    """Read the settings of the autoencoder at `path`: its `config.json`, or those of KL-f8 for a lone file.

    Raises:
        ValueError: The settings are damaged or those of another class.
    """
    settings_file = (path if path.is_dir() else path.parent) / "config.json"
    if not settings_file.is_file():
        return KL_F8
    settings = read_json(settings_file)
    if settings.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise UserError(f"{settings_file} must be of an AutoencoderKL, got {settings['_class_name']!r}")
    return settings


def load_vae(path: Path) -> Any:
    """Load an `AutoencoderKL` without a second copy of its weights in memory.

    Args:
        path: Folder with `config.json` and weights, or a single file: in diffusers' names, or in the original
            ones ("encoder.down.0.block.0...", "first_stage_model." before them or not).

    Returns:
        float32 `AutoencoderKL` on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The files are damaged or do not fit together; one line naming `path`.
    """
    from diffusers import AutoencoderKL

    settings, weights = vae_config(path), read_vae(path)
    try:
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(settings)
        vae.load_state_dict(weights, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{path} must be a complete AutoencoderKL, got: {' '.join(lines[:2])[:300]}"
        ) from None
    return vae.eval().requires_grad_(False)


def read_vae(path: Path) -> dict[str, Tensor]:
    """Read the weights of an `AutoencoderKL`, which takes diffusers only where they have the original names.

    Args:
        path: As of `load_vae`.

    Returns:
        float32 tensors by diffusers' names, mapped from the files where these are float32.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The files are damaged, or an original one lacks a tensor.
    """
    weights = _read(path)
    if any(".down.0.block.0." in name for name in weights):
        weights = _from_original(weights, vae_config(path), path)
    else:
        weights = {_present_name(name): tensor for name, tensor in weights.items()}
    return {name: tensor.to(torch.float32) for name, tensor in weights.items()}


def _read(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        found = next((path / name for name in _WEIGHT_FILES if (path / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"no autoencoder weights in {path}: looked for {', '.join(_WEIGHT_FILES)}"
            )
        path = found
    return read_sharded_weights(path) if path.suffix == ".json" else read_weights(path)[0]


def _present_name(name: str) -> str:
    """Rename attention maps from before diffusers 0.15, as sd-vae-ft-mse is stored."""
    for old, new in _OLD_ATTENTION_NAMES.items():
        name = name.replace(old, new)
    return name


def _from_original(weights: Mapping[str, Tensor], settings: dict[str, Any], path: Path) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    try:
        converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(dict(weights), settings)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path} must be an autoencoder's weights, got a file without {error}") from None
    return converted
