"""Reading a diffusers `VQModel` from its folder or from a file of the original layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.dit.weight_files import read_json, read_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.model_weights import complete_or_refused, read_model_weights

VQ_CLASS = "VQModel"
PIPELINE_FOLDERS = ("vqvae", "vae")
"""Where pipelines keep their autoencoder."""

_PREFIX = "first_stage_model."
_CODEBOOK = "quantize.embedding.weight"
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
_SCALE = "scale_factor"
_DIFFUSERS_SCALE = 0.18215  # of a VQModel whose config.json does not say


def is_vq(path: Path) -> bool:
    """Tell a vector-quantised autoencoder from another: by its class, or by a codebook in the file.

    Args:
        path: Folder of an autoencoder or of a pipeline, or a file of weights.

    Raises:
        ValueError: The files are damaged.
    """
    if path.is_file():
        return any(name.endswith(_CODEBOOK) for name in read_weights(path)[0])
    folder = vq_folder(path)
    return folder is not None and read_json(folder / "config.json").get("_class_name") == VQ_CLASS


def vq_folder(root: Path) -> Path | None:
    """Return the folder with the autoencoder's `config.json`: `vqvae` or `vae` of a pipeline, or `root`."""
    candidates = (*(root / name for name in PIPELINE_FOLDERS), root)
    return next((folder for folder in candidates if (folder / "config.json").is_file()), None)


def vq_config(path: Path) -> dict[str, Any]:
    """Read the settings of the autoencoder at `path`: its `config.json`, or what a file's shapes tell.

    Args:
        path: Folder of the autoencoder, or a file in the original names.

    Raises:
        UserError: The settings are damaged or those of another class, or the file lacks a tensor.
    """
    if path.is_file():
        weights, _ = read_weights(path)
        with _naming_what_is_missing(path):
            return _settings_of(_first_stage(weights), weights.get(_SCALE))
    settings = read_json(path / "config.json")
    if settings.get("_class_name", VQ_CLASS) != VQ_CLASS:
        raise UserError(f"{path} must be of a {VQ_CLASS}, got {settings['_class_name']!r}")
    if settings.get("norm_type", "group") != "group" or settings.get("lookup_from_codebook"):
        raise UserError(f"{path} must be a {VQ_CLASS} of norm_type group without lookup_from_codebook")
    return {"scaling_factor": _DIFFUSERS_SCALE, **settings}


def load_vq(path: Path, settings: dict[str, Any]) -> Any:
    """Load a `VQModel` without a second copy of its weights in memory.

    Args:
        path: Folder of the autoencoder, or a file in the original names, "first_stage_model." before them or
            not; whatever else a file holds is left aside.
        settings: What `vq_config` gives for it.

    Returns:
        float32 `VQModel` on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: The weights are missing.
        UserError: The files are damaged or do not fit together.
    """
    from diffusers import VQModel

    with complete_or_refused(path, VQ_CLASS):
        with torch.device("meta"):
            network = VQModel.from_config(settings)
        network.load_state_dict(read_vq(path, settings), assign=True)
    return network.eval().requires_grad_(False)


def read_vq(path: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Read the weights of a `VQModel`, which takes diffusers only where they have the original names.

    Args:
        path: As of `load_vq`.
        settings: What `vq_config` gives for it.

    Returns:
        float32 tensors by diffusers' names, mapped from the files where these are float32.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The files are damaged, or an original one lacks a tensor.
    """
    if path.is_file():
        with _naming_what_is_missing(path):
            weights = _converted(_first_stage(read_weights(path)[0]), settings)
    else:
        weights = read_model_weights(path)
    return {name: tensor.to(torch.float32) for name, tensor in weights.items()}


def _first_stage(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the autoencoder's weights by their original names."""
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in weights) else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in named.items() if name.startswith(_PARTS)}


def _settings_of(weights: Mapping[str, Tensor], scale: Tensor | None) -> dict[str, Any]:
    levels = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.down.")}
    channels = [weights[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in sorted(levels)]
    blocks = {name.split(".")[4] for name in weights if name.startswith("encoder.down.0.block.")}
    codes, width = weights[_CODEBOOK].shape
    return {
        "_class_name": VQ_CLASS,
        "in_channels": weights["encoder.conv_in.weight"].shape[1],
        "out_channels": weights["decoder.conv_out.weight"].shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "block_out_channels": channels,
        "layers_per_block": len(blocks),
        "latent_channels": weights["encoder.conv_out.weight"].shape[0],
        "num_vq_embeddings": codes,
        "vq_embed_dim": width,
        "norm_num_groups": 32,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in weights,
        "scaling_factor": 1.0 if scale is None else float(scale),
    }


def _converted(weights: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Rename to diffusers' names; its converter knows no codebook."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(weights, settings)
    return {**converted, _CODEBOOK: weights[_CODEBOOK]}


@contextmanager
def _naming_what_is_missing(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{path} must hold a vector-quantised autoencoder, got none with {error.args[0]}"
        ) from None
