"""Loading a DiT from every layout in which its weights are published, and saving our own."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from mgd3_engine.dit.config import DiTConfig
from mgd3_engine.dit.layouts import (
    diffusers_config,
    fold_gains,
    from_diffusers,
    infer_config,
    is_diffusers,
)
from mgd3_engine.dit.model import DiT, position_embedding
from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.weights import read_model_weights, read_weights, weight_files, write_safetensors

_METADATA_KEY = "mgd3_dit_config"
_DIFFUSERS_FILES = {name for single, _, index in weight_files() for name in (single, index)}


def load_dit(
    source: str | Path,
    config: DiTConfig | None = None,
    *,
    num_heads: int | None = None,
    frequency_shift: int = 0,
    dtype: torch.dtype = torch.float32,
) -> DiT:
    """Load a DiT for inference from the authors' layout, from diffusers' or from ours.

    Weights of the wanted dtype stay mapped from their file, so that loading takes no second copy of them.
    The gains of DiffFit fine-tuning are folded into the weights.

    Args:
        source: A `.pt` file in the authors' layout (plain, or wrapped under "ema" or "model"), a
            `.safetensors` file (ours, or any in the authors' names), a diffusers folder (the pipeline's or
            its `transformer`), or a weights file inside one.
        config: The architecture; None reads it from our metadata, from diffusers' `config.json` or off the
            shapes.
        num_heads: Needed for the authors' layout when the hidden size is not a published one.
        frequency_shift: Convention of the timestep sinusoids where the file does not tell: 0 for every
            network of the authors, in whatever layout; 1 for one that was trained within diffusers.
        dtype: Of the network's weights.

    Returns:
        The network on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: There is nothing at `source`.
        ValueError: The file is damaged, is no DiT, lacks a tensor, has too many, or does not fit `config`.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    folder = _diffusers_folder(path)
    try:
        if folder is not None:
            weights = from_diffusers(read_model_weights(folder) if path.is_dir() else read_weights(path)[0])
            config = config or diffusers_config(
                read_json(folder / "config.json"), frequency_shift=frequency_shift
            )
        else:
            stored, metadata = read_weights(path)
            weights = fold_gains(stored)
            if config is None and _METADATA_KEY in metadata:
                config = _stored_config(metadata[_METADATA_KEY])
            config = config or infer_config(weights, num_heads=num_heads, frequency_shift=frequency_shift)
        return _assemble(config, weights, dtype)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be loaded as a DiT: {error}") from None


def save_dit(path: str | Path, dit: DiT, *, dtype: torch.dtype | None = None) -> None:
    """Write a DiT and its configuration to one safetensors file, in place of an older one only when complete.

    Args:
        path: The file to write.
        dit: The network.
        dtype: Of the stored weights; None keeps the network's. The fixed `pos_embed` keeps its own.
    """
    weights = {
        name: tensor.to(tensor.dtype if name == "pos_embed" else dtype)
        for name, tensor in dit.state_dict().items()
    }
    write_safetensors(Path(path), weights, {_METADATA_KEY: json.dumps(asdict(dit.config))})


def _diffusers_folder(path: Path) -> Path | None:
    """Return the folder with the transformer's `config.json`, or None for a file of another layout."""
    if path.is_dir():
        for folder in (path, path / "transformer"):
            if (folder / "config.json").is_file():
                return folder
        raise ValueError(f"{path} must hold config.json or transformer/config.json of a DiT, got neither")
    if path.name in _DIFFUSERS_FILES and (path.parent / "config.json").is_file():
        return path.parent
    return None


def _stored_config(text: str) -> DiTConfig:
    try:
        return DiTConfig(**json.loads(text))
    except TypeError as error:
        raise ValueError(f"stored configuration must have the fields of DiTConfig, got {error}") from None


def _assemble(config: DiTConfig, weights: Mapping[str, Tensor], dtype: torch.dtype) -> DiT:
    """Put the tensors into a network that was made without memory of its own."""
    if is_diffusers(weights):
        raise ValueError("weights in diffusers' names must come with their config.json, got none beside them")
    if "pos_embed" not in weights:
        grid = position_embedding(config.hidden_size, config.input_size // config.patch_size)
        weights = {**weights, "pos_embed": grid[None]}
    with torch.device("meta"):
        dit = DiT(config)
    expected = dit.state_dict()
    if missing := expected.keys() - weights.keys():
        raise ValueError(f"weights must be complete, missing {_listed(missing)}")
    if unknown := weights.keys() - expected.keys():
        raise ValueError(f"weights must be those of a DiT alone, got also {_listed(unknown)}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point of shape {list(expected[name].shape)},"
                f" got {tensor.dtype} {list(tensor.shape)}"
            )
    dit.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
    return dit.eval().requires_grad_(False)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
