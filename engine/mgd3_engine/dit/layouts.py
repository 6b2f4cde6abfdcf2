"""From the names and shapes of published DiT checkpoints to ours, which are the authors'.

Shape letters: d hidden size, T tokens, C latent channels, O output channels, P patch size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mgd3_engine.dit.config import DiTConfig
from mgd3_engine.dit.presets import HEADS_OF_HIDDEN_SIZE

Weights = dict[str, Tensor]

_BLOCK_NAMES = {  # diffusers' name inside a block -> ours
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_EMBEDDER_NAMES = {  # diffusers' name inside a block's `norm1.emb` -> ours, once for the network
    "timestep_embedder.linear_1": "t_embedder.mlp.0",
    "timestep_embedder.linear_2": "t_embedder.mlp.2",
    "class_embedder.embedding_table": "y_embedder.embedding_table",
}
_OUTER_NAMES = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_DIFFUSERS_REQUIRED: dict[str, Any] = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}


def is_diffusers(weights: Mapping[str, Tensor]) -> bool:
    """Tell whether the tensors carry the names of diffusers' `DiTTransformer2DModel`."""
    return any(name.startswith("transformer_blocks.") for name in weights)


def from_diffusers(weights: Mapping[str, Tensor]) -> Weights:
    """Rename the tensors of a diffusers `DiTTransformer2DModel` and fuse its query, key and value maps.

    Every block there carries a copy of the timestep and label embedders; the copies must be equal and one
    is kept. `pos_embed` is not stored there.

    Args:
        weights: Tensors by diffusers' names.

    Returns:
        Tensors by our names; a tensor without a counterpart keeps its name, for the caller to refuse.

    Raises:
        ValueError: The copies of an embedder differ, or a projection to be fused is missing.
    """
    renamed: Weights = {}
    for name, tensor in weights.items():
        ours = _our_name(name)
        if ours in renamed and not torch.equal(renamed[ours], tensor):
            raise ValueError(f"copies of {ours} in the blocks must be equal, got another one in {name}")
        renamed.setdefault(ours, tensor)
    for name in list(renamed):
        if query := re.fullmatch(r"transformer_blocks\.(\d+)\.attn1\.to_q\.(weight|bias)", name):
            block, kind = query.groups()
            stem = f"transformer_blocks.{block}.attn1"
            parts = [renamed.pop(f"{stem}.{part}.{kind}", None) for part in ("to_q", "to_k", "to_v")]
            present = [part for part in parts if part is not None]
            if len(present) < 3:
                raise ValueError(f"{name} must come with to_k and to_v, got {len(present)} of the three")
            renamed[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(present)  # [3d, d] or [3d]
    return renamed


def diffusers_config(settings: Mapping[str, Any], *, frequency_shift: int) -> DiTConfig:
    """Read the `config.json` of a diffusers DiT.

    Args:
        settings: Its content.
        frequency_shift: See `DiTConfig`; diffusers does not store it.

    Returns:
        The configuration; diffusers always has a null label.

    Raises:
        ValueError: The settings are not those of a DiT.
    """
    for name, expected in _DIFFUSERS_REQUIRED.items():
        if settings.get(name, expected) != expected:
            raise ValueError(f"{name} must be {expected!r} for a DiT, got {settings[name]!r}")
    try:
        num_heads, channels = int(settings["num_attention_heads"]), int(settings["in_channels"])
        return DiTConfig(
            input_size=int(settings["sample_size"]),
            patch_size=int(settings["patch_size"]),
            in_channels=channels,
            hidden_size=num_heads * int(settings["attention_head_dim"]),
            depth=int(settings["num_layers"]),
            num_heads=num_heads,
            num_classes=int(settings["num_embeds_ada_norm"]),
            learn_sigma=_learns_sigma(int(settings.get("out_channels") or channels), channels),
            frequency_shift=frequency_shift,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"settings of a diffusers DiT must be whole numbers, got a bad {error}") from None


def fold_gains(weights: Mapping[str, Tensor]) -> Weights:
    """Fold the gains of DiffFit fine-tuning (Xie et al. 2023) into the linear maps before them.

    MinMax diffusion, whose fine-tuned DiTs MGD3 builds on, trains per-channel gains `gamma1` and `gamma2` on
    the outputs of qkv and proj and on both residual branches: gamma * (W x + b) = (gamma W) x + gamma b.

    Args:
        weights: Tensors by the authors' names, with or without gains.

    Returns:
        The same network without gains.

    Raises:
        ValueError: A gain has no linear map before it.
    """
    folded = dict(weights)
    targets = {
        "attn.gamma1": "attn.qkv",
        "attn.gamma2": "attn.proj",
        "gamma1": "attn.proj",
        "gamma2": "mlp.fc2",
    }
    for name, gain in weights.items():
        match = re.fullmatch(r"(blocks\.\d+)\.((?:attn\.)?gamma[12])", name)
        if match is None:
            continue
        target = f"{match[1]}.{targets[match[2]]}"
        for kind in ("weight", "bias"):
            tensor = folded.get(f"{target}.{kind}")
            if tensor is None or len(tensor) != len(gain):
                raise ValueError(
                    f"{name} must have one gain per row of {target}.{kind}, got {list(gain.shape)}"
                )
            folded[f"{target}.{kind}"] = gain.reshape(-1, *[1] * (tensor.ndim - 1)) * tensor
        del folded[name]
    return folded


def infer_config(weights: Mapping[str, Tensor], *, num_heads: int | None, frequency_shift: int) -> DiTConfig:
    """Read the architecture off the shapes of the authors' layout.

    Args:
        weights: Tensors by the authors' names.
        num_heads: Attention heads, which no shape tells; None takes those of the published size of the same
            width, and 1 for another width.
        frequency_shift: See `DiTConfig`.

    Returns:
        The configuration; the last row of the label table is taken for the null label.

    Raises:
        ValueError: A tensor that tells a size is missing or of an odd shape.
    """
    hidden_size, channels, patch_size, _ = _shape(weights, "x_embedder.proj.weight", 4)
    tokens = _shape(weights, "pos_embed", 3)[1]
    output = _shape(weights, "final_layer.linear.weight", 2)[0]
    labels = _shape(weights, "y_embedder.embedding_table.weight", 2)[0]
    inner_size = _shape(weights, "blocks.0.mlp.fc1.weight", 2)[0]
    blocks = {int(name.split(".")[1]) for name in weights if re.match(r"blocks\.\d+\.", name)}
    return DiTConfig(
        input_size=math.isqrt(tokens) * patch_size,
        patch_size=patch_size,
        in_channels=channels,
        hidden_size=hidden_size,
        depth=max(blocks) + 1,
        num_heads=num_heads or HEADS_OF_HIDDEN_SIZE.get(hidden_size, 1),
        mlp_ratio=inner_size / hidden_size,
        num_classes=labels - 1,
        learn_sigma=_learns_sigma(output // patch_size**2, channels),
        frequency_shift=frequency_shift,
    )


def _our_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if name == "pos_embed.pos_embed":
        return "pos_embed"
    if stem in _OUTER_NAMES:
        return f"{_OUTER_NAMES[stem]}.{kind}"
    match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", stem)
    if match is None:
        return name
    block, inner = match.groups()
    if inner.removeprefix("norm1.emb.") in _EMBEDDER_NAMES:
        return f"{_EMBEDDER_NAMES[inner.removeprefix('norm1.emb.')]}.{kind}"
    if inner in _BLOCK_NAMES:
        return f"blocks.{block}.{_BLOCK_NAMES[inner]}.{kind}"
    return name


def _shape(weights: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"weights must hold {name}, got {len(weights)} other tensors")
    shape = tuple(weights[name].shape)
    if len(shape) != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got {list(shape)}")
    return shape


def _learns_sigma(out_channels: int, in_channels: int) -> bool:
    if out_channels not in (in_channels, 2 * in_channels):
        raise ValueError(
            f"output channels must be {in_channels} or {2 * in_channels} for {in_channels} latent channels,"
            f" got {out_channels}"
        )
    return out_channels == 2 * in_channels
