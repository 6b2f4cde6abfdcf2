"""Names of an autoencoder's tensors: diffusers', its older ones, and those of the original code."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mgd3_engine.files.weights import rooted

_ANCHORS = ("encoder.conv_in.weight", "decoder.conv_in.weight")  # both layouts have these names
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
_OLD_ATTENTION = {  # before diffusers 0.15, as sd-vae-ft-mse is stored
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
_ORIGINAL = (  # pattern of the original name, diffusers'
    (r"\.down\.(\d+)\.", r".down_blocks.\1."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
)


def present_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename attention maps from before diffusers 0.15."""
    renamed = {}
    for name, tensor in weights.items():
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def is_original(weights: Mapping[str, Tensor]) -> bool:
    """Tell whether the tensors carry the names of the original code."""
    return any(".down.0.block.0." in name for name in weights)


def first_stage(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick an autoencoder's tensors out of a file, of it alone or of a whole model.

    Args:
        weights: All tensors of the file, by the original names or diffusers'.

    Returns:
        Those of the autoencoder, without prefix. In the original names a discriminator's and other parts' are
        left aside.
    """
    named = rooted(weights, _ANCHORS)
    if not is_original(named):
        return named
    return {name: tensor for name, tensor in named.items() if name.startswith(_PARTS)}


def from_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the original code (Rombach et al. 2022) to diffusers' names.

    Args:
        weights: What `first_stage` gives. A tensor that diffusers' networks do not have keeps its name.

    Returns:
        The tensors by diffusers' names; attention maps, 1x1 convolutions in the original, are matrices.
    """
    numbers = [int(found[1]) for name in weights if (found := re.match(r"decoder\.up\.(\d+)\.", name))]
    last = max(numbers, default=0)
    renamed = {}
    for name, tensor in weights.items():
        # The original code counts the decoder's blocks from the pixels, diffusers from the latents.
        name = re.sub(r"\.up\.(\d+)\.", lambda found: f".up_blocks.{last - int(found[1])}.", name)
        for pattern, replacement in _ORIGINAL:
            name = re.sub(pattern, replacement, name)
        is_map = ".attentions." in name and tensor.ndim == 4
        renamed[name] = tensor[:, :, 0, 0] if is_map else tensor
    return renamed
