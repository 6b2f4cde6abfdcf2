"""Latent diffusion's original layout: one file whose names and shapes tell the architecture.

Diffusers' `from_single_file` takes such a file for Stable Diffusion 1.5 and asks the hub for its settings.

`model.diffusion_model.` precedes the names of the U-Net, `first_stage_model.` those of the autoencoder, and
`cond_stage_model.embedding.weight` is the table of class embeddings, the null class's last.

Shape letters: N classes, E numbers of a class embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.files.weights import read_weights
from mgd3_fast.errors import UserError

UNET = "model.diffusion_model."
CLASS_TABLE = "cond_stage_model.embedding.weight"
HEADS = 1
"""Attention heads of a U-Net, which its weights do not tell: those of cin256-v2."""


@dataclass
class _Level:
    """The residual blocks between two changes of size."""

    blocks: int = 0
    channels: int = 0
    attends: bool = False


def part_of(path: Path, prefix: str) -> dict[str, Tensor]:
    """Read the weights of one network of the file, which are mapped from it; the prefix is taken off."""
    weights = read_weights(path)[0]
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def class_table(path: Path) -> Tensor:
    """Read the class embeddings `[N + 1, E]` of a file; see `checked_table`."""
    return checked_table(read_weights(path)[0][CLASS_TABLE], f"{CLASS_TABLE} of {path}")


def checked_table(table: Tensor, place: str) -> Tensor:
    """Return class embeddings `[N + 1, E]`, unless they cannot end with the null class's.

    Raises:
        UserError: They have another number of dimensions, fewer than two rows, one for each class of ImageNet
            alone, or hold NaN or infinity; the message names `place`.
    """
    if table.ndim != 2 or len(table) in (0, 1, 1000):
        raise UserError(
            f"{place} must be [classes + 1, numbers], the null class last, got {list(table.shape)}"
        )
    if not torch.isfinite(table).all():
        raise UserError(f"{place} holds NaN or infinity")
    return table


def original_settings(path: Path) -> dict[str, Any]:
    """Read the architecture of a file's U-Net; see `unet_settings_of`.

    Raises:
        UserError: A tensor is missing.
    """
    try:
        return unet_settings_of(part_of(path, UNET))
    except KeyError as error:
        raise UserError(f"{path} must hold {UNET}{error.args[0]}, got none") from None


def original_unet(path: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Read a file's U-Net: tensors by diffusers' names, mapped from the file.

    These are the trained weights themselves: the published configuration keeps no averages (`use_ema:
    False`), so that the original sampling script leaves `model_ema.` aside where a file has it.

    Args:
        path: A checkpoint file.
        settings: What `original_settings` gives for it.

    Raises:
        KeyError: A tensor is missing.
        UserError: There is one that such a network does not have.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    weights = part_of(path, UNET)
    prefixed = {f"{UNET}{name}": tensor for name, tensor in weights.items()}
    converted: dict[str, Tensor] = convert_ldm_unet_checkpoint(prefixed, settings)
    taken = {id(tensor) for tensor in converted.values()}
    for name, tensor in weights.items():
        if id(tensor) not in taken:
            raise UserError(f"{path} must hold a U-Net with cross-attention to classes, got one with {name}")
    return converted


def unet_settings_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the architecture of a U-Net off its weights, which have their original names without prefix.

    Returns:
        Settings of a `UNet2DConditionModel`, but for `sample_size`, which weights do not tell.

    Raises:
        KeyError: A tensor that every such network has is missing.
    """
    levels = _levels(weights)
    middle = "middle_block.1"
    attends = [level.attends for level in levels]
    kinds = {True: ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), False: ("DownBlock2D", "UpBlock2D")}
    return {
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": weights["out.2.weight"].shape[0],
        "block_out_channels": [level.channels for level in levels],
        "layers_per_block": levels[0].blocks,
        "down_block_types": [kinds[here][0] for here in attends],
        "up_block_types": [kinds[here][1] for here in reversed(attends)],
        "cross_attention_dim": weights[f"{middle}.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "transformer_layers_per_block": _count(weights, f"{middle}.transformer_blocks."),
        "use_linear_projection": weights[f"{middle}.proj_in.weight"].ndim == 2,
        "attention_head_dim": HEADS,  # diffusers' name for their number
    }


def _levels(weights: Mapping[str, Tensor]) -> list[_Level]:
    levels = [_Level()]
    for index in range(1, _count(weights, "input_blocks.")):
        block = f"input_blocks.{index}"
        if f"{block}.0.op.weight" in weights:
            levels.append(_Level())
            continue
        levels[-1].blocks += 1
        levels[-1].channels = weights[f"{block}.0.out_layers.3.weight"].shape[0]
        levels[-1].attends |= f"{block}.1.proj_in.weight" in weights
    return levels


def _count(names: Iterable[str], prefix: str) -> int:
    """Count the different parts of names that follow the prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})
