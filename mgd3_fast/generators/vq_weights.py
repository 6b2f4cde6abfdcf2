"""Reading a `VQModel` from a diffusers folder or from a file of the original layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mgd3_engine.autoencoder import VQConfig, VQModel, filled_network, first_stage, from_original
from mgd3_engine.files.weights import read_json, read_weights
from mgd3_fast.errors import UserError
from mgd3_fast.generators.model_weights import complete_or_refused, read_model_weights

VQ_CLASS = "VQModel"
PIPELINE_FOLDERS = ("vqvae", "vae")
"""Where pipelines keep their autoencoder."""

_CODEBOOK = "quantize.embedding.weight"
_SCALE = "scale_factor"


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


def vq_config(path: Path) -> VQConfig:
    """Read the settings of the autoencoder at `path`: its `config.json`, or what a file's shapes tell.

    Args:
        path: Folder of the autoencoder, or a file in the original names.

    Raises:
        UserError: The settings are those of another class or of a network that is not implemented, or the
            file lacks a tensor.
        ValueError: The file is damaged.
    """
    if path.is_file():
        weights, _ = read_weights(path)
        with _naming_what_is_missing(path):
            return _config_of(first_stage(weights), weights.get(_SCALE))
    settings = read_json(path / "config.json")
    if settings.get("_class_name", VQ_CLASS) != VQ_CLASS:
        raise UserError(f"{path} must be of a {VQ_CLASS}, got {settings['_class_name']!r}")
    try:
        return VQConfig.of(settings)
    except ValueError as error:
        raise UserError(f"{path / 'config.json'} cannot be used: {error}") from None


def load_vq(path: Path, config: VQConfig) -> VQModel:
    """Load a `VQModel` without a second copy of its weights in memory.

    Args:
        path: Folder of the autoencoder, or a file in the original names, "first_stage_model." before them or
            not; whatever else a file holds is left aside.
        config: What `vq_config` gives for it.

    Returns:
        The float32 network on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: The weights are missing.
        UserError: The files are damaged or do not fit together.
    """
    with complete_or_refused(path, VQ_CLASS):
        network = filled_network(config, read_vq(path))
    assert isinstance(network, VQModel)
    return network


def read_vq(path: Path) -> dict[str, Tensor]:
    """Read the weights of a `VQModel`.

    Args:
        path: As of `load_vq`.

    Returns:
        float32 tensors by diffusers' names, mapped from the files where these are float32.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The files are damaged.
    """
    if path.is_file():
        weights = from_original(first_stage(read_weights(path)[0]))
    else:
        weights = read_model_weights(path)
    return {name: tensor.to(torch.float32) for name, tensor in weights.items()}


def _config_of(weights: Mapping[str, Tensor], scale: Tensor | None) -> VQConfig:
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


@contextmanager
def _naming_what_is_missing(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{path} must hold a vector-quantised autoencoder, got none with {error.args[0]}"
        ) from None
