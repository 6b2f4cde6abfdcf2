"""Reading the autoencoders of latent diffusion from a diffusers folder or a file, and writing them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mgd3_engine.autoencoder import (
    KL_F8,
    AutoencoderConfig,
    AutoencoderKL,
    KLConfig,
    VQConfig,
    first_stage,
    from_original,
    is_original,
    present_names,
)
from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import read_model_weights, read_weights
from mgd3_fast.errors import UserError
from mgd3_fast.storage.json_results import write_json
from mgd3_fast.storage.tensor_files import save_tensors

PIPELINE_FOLDERS = ("vqvae", "vae")
"""Where pipelines keep a vector-quantised autoencoder."""

_CODEBOOK = "quantize.embedding.weight"
_SCALE = "scale_factor"
_BLOCKS = "block_out_channels"
_Config = TypeVar("_Config", bound=AutoencoderConfig)


def read_autoencoder(path: Path) -> dict[str, Tensor]:
    """Read the weights of an autoencoder.

    Args:
        path: Folder with `config.json` and weights, or a single file: in diffusers' names or in the original
            ones ("encoder.down.0.block.0..."), below a prefix such as "first_stage_model." or not; whatever
            else a file in the original names holds is left aside.

    Returns:
        float32 tensors by diffusers' names, mapped from the files where these are float32.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The files are damaged, or hold whole numbers, as of a quantised network.
    """
    weights = _first_stage(read_model_weights(path) if path.is_dir() else read_weights(path)[0], path)
    weights = from_original(weights) if is_original(weights) else present_names(weights)
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise UserError(
                f"the tensor {name} of {path} holds {tensor.dtype}, and weights are floating-point numbers"
            )
    return {name: tensor.to(torch.float32) for name, tensor in weights.items()}


def kl_config(path: Path) -> KLConfig:
    """Read the settings of the `AutoencoderKL` at `path`: its `config.json`, or KL-f8's for a lone file.

    A `config.json` beside a file may be of another network, such as the one that states a DiT's heads.

    Raises:
        UserError: The settings are those of another class, or of a network that is not implemented.
        ValueError: The file is damaged.
    """
    settings_file = (path if path.is_dir() else path.parent) / "config.json"
    if not settings_file.is_file() or (path.is_file() and _BLOCKS not in read_json(settings_file)):
        return KL_F8
    return _stated(KLConfig, settings_file)


def vq_config(path: Path) -> VQConfig:
    """Read the settings of the `VQModel` at `path`: a folder's `config.json`, or what a file's shapes tell.

    Raises:
        UserError: The settings are those of another class or of a network that is not implemented, or the
            file lacks a tensor.
        ValueError: The file is damaged.
    """
    if path.is_dir():
        return _stated(VQConfig, path / "config.json")
    weights, _ = read_weights(path)
    try:
        return vq_config_of(_first_stage(weights, path), weights.get(_SCALE))
    except KeyError as error:
        raise UserError(f"{path} holds no vector-quantised autoencoder: {error.args[0]} is missing") from None


def is_vq(path: Path) -> bool:
    """Tell a vector-quantised autoencoder, or a pipeline with one, by its class or by a codebook in the file.

    Raises:
        ValueError: The files are damaged.
    """
    if path.is_file():
        return any(name.endswith(_CODEBOOK) for name in read_weights(path)[0])
    folder = vq_folder(path)
    return folder is not None and read_json(folder / "config.json").get("_class_name") == VQConfig.class_name


def vq_folder(root: Path) -> Path | None:
    """Return the folder with the autoencoder's `config.json`: `vqvae` or `vae` of a pipeline, or `root`."""
    candidates = (*(root / name for name in PIPELINE_FOLDERS), root)
    return next((folder for folder in candidates if (folder / "config.json").is_file()), None)


def vq_config_of(weights: Mapping[str, Tensor], scale: Tensor | None) -> VQConfig:
    """Read the architecture of a `VQModel` off the shapes of its weights.

    Args:
        weights: What `first_stage` gives.
        scale: What latents are multiplied by, if the file states it; None is 1.

    Raises:
        KeyError: A tensor that every such network has is missing.
    """
    levels = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.down.")}
    blocks = {name.split(".")[4] for name in weights if name.startswith("encoder.down.0.block.")}
    codes, width = weights[_CODEBOOK].shape
    return VQConfig(
        in_channels=weights["encoder.conv_in.weight"].shape[1],
        out_channels=weights["decoder.conv_out.weight"].shape[0],
        block_out_channels=tuple(
            weights[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in sorted(levels)
        ),
        layers_per_block=len(blocks),
        latent_channels=weights["encoder.conv_out.weight"].shape[0],
        num_vq_embeddings=codes,
        vq_embed_dim=width,
        norm_num_groups=32,
        mid_block_add_attention="encoder.mid.attn_1.q.weight" in weights,
        scaling_factor=1.0 if scale is None else float(scale),
    )


def save_autoencoder(
    folder: Path, vae: AutoencoderKL, scaling_factor: float, dtype: torch.dtype | None
) -> None:
    """Write what diffusers' `from_pretrained` reads; `config.json` is there last.

    Args:
        folder: Made if it does not exist.
        vae: The network.
        scaling_factor: 1 / standard deviation of the latents.
        dtype: Of the stored weights; None keeps the network's.
    """
    folder.mkdir(exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    weights = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in vae.state_dict().items()}
    save_tensors(folder / "diffusion_pytorch_model.safetensors", weights, {"format": "pt"})
    settings = vae.config.settings() | {"scaling_factor": scaling_factor}
    write_json(folder / "config.json", dict(sorted(settings.items())), indent=2, shared=True)


def _first_stage(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    try:
        return first_stage(weights)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as an autoencoder: {error}") from None


def _stated(kind: type[_Config], settings_file: Path) -> _Config:
    settings = read_json(settings_file)
    found = settings.get("_class_name", kind.class_name)
    if found != kind.class_name:
        raise UserError(f"{settings_file} must be of class {kind.class_name}, got {found!r}")
    try:
        return kind.of(settings)
    except ValueError as error:
        raise UserError(f"{settings_file} cannot be used: {error}") from None
