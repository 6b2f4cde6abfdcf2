"""A DiT whose blocks multiply in 8 bits: dynamic rowwise scaling of activations and weights, bfloat16 around.

What a product reads was quantised by the operation before it: adaLN, attention's end, GELU. The residual
stream and the products' results stay bfloat16.

Shape letters: N rows of a batch, T tokens, d hidden size, i and o features in and out of a linear map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mgd3_engine.dit.layers import Attention, Mlp, TokenLinear, attend, runs_kernels
from mgd3_engine.dit.model import DiT, DiTBlock
from mgd3_kernels import (
    FLOAT8_CAPABILITY,
    QuantisedRows,
    gelu_quantise,
    gelu_quantise_reference,
    quantise_heads,
    quantise_heads_reference,
    quantise_rows,
)

_MULTIPLE = 16  # of features, for torch's scaled product


class Float8Linear(nn.Module):
    """A linear map of 8-bit tokens whose weight is quantised once.

    Args:
        linear: The bfloat16 map to replace.

    Raises:
        ValueError: It is of another dtype, or its features are no multiple of 16.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: TokenLinear) -> None:
        super().__init__()
        if linear.weight.dtype != torch.bfloat16:
            raise ValueError(f"linear must be bfloat16, got {linear.weight.dtype}")
        if linear.in_features % _MULTIPLE or linear.out_features % _MULTIPLE:
            raise ValueError(
                f"linear must have multiples of {_MULTIPLE} features for fp8,"
                f" got {linear.in_features} in and {linear.out_features} out"
            )
        weight, scale = quantise_rows(linear.weight.detach())
        self.register_buffer("weight", weight)  # [o, i]
        self.register_buffer("scale", scale)  # [o, 1]
        self.register_buffer("bias", linear.bias.detach())  # [o]

    def forward(self, tokens: QuantisedRows) -> Tensor:
        """Map `[N, T, i]` to bfloat16 `[N, T, o]`."""
        rows, scale = tokens
        if torch.is_grad_enabled() and scale.requires_grad:
            raise ValueError("precision must not be fp8 where a gradient is needed: it has none")
        mapped = torch._scaled_mm(
            rows.flatten(0, 1),
            self.weight.t(),
            scale_a=scale.flatten(0, 1),
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # [N T, o]
        return mapped.view(*rows.shape[:2], self.weight.shape[0])


class Float8Attention(nn.Module):
    """`Attention` of 8-bit tokens; it attends in bfloat16."""

    reads_float8 = True

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv, self.proj = Float8Linear(attention.qkv), Float8Linear(attention.proj)

    def forward(self, tokens: QuantisedRows) -> Tensor:
        """Mix `[N, T, d]` tokens over T, to bfloat16."""
        mixed = attend(self.qkv(tokens), self.num_heads)  # [N, h, T, d/h]
        quantise = quantise_heads if runs_kernels(mixed) else quantise_heads_reference
        merged: Tensor = self.proj(quantise(mixed))
        return merged


class Float8Mlp(nn.Module):
    """`Mlp` of 8-bit tokens."""

    reads_float8 = True

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.fc1, self.fc2 = Float8Linear(mlp.fc1), Float8Linear(mlp.fc2)

    def forward(self, tokens: QuantisedRows) -> Tensor:
        """Map each of the `[N, T, d]` tokens by itself, to bfloat16."""
        inner = self.fc1(tokens)  # [N, T, 4 d]
        quantise = gelu_quantise if runs_kernels(inner) else gelu_quantise_reference
        mapped: Tensor = self.fc2(quantise(inner))
        return mapped


def float8_linears(dit: DiT) -> DiT:
    """Replace the linear maps of a DiT's blocks: qkv, proj, fc1 and fc2, 96% of DiT-XL/2's work.

    Embedders, adaLN, attention and the last layer stay as they are.

    Args:
        dit: bfloat16; shares its other weights with the result.

    Returns:
        The network for inference, on the same device.

    Raises:
        ValueError: `dit` is of another dtype, its sizes are no multiples of 16, or its device does not
            multiply 8-bit numbers.
    """
    dtype, device = dit.x_embedder.proj.weight.dtype, dit.x_embedder.proj.weight.device
    if dtype != torch.bfloat16:
        raise ValueError(f"dit must be bfloat16 for fp8 linear maps, got {dtype}")
    reason = missing_float8(device)
    if reason:
        raise ValueError(f"precision must be bf16 or fp32 on {device}, which {reason}, got fp8")
    with torch.device("meta"):
        quantised = DiT(dit.config)
    quantised.load_state_dict(dit.state_dict(), assign=True)
    for block in cast("Sequence[DiTBlock]", quantised.blocks):
        # Not of the declared types: they read 8-bit rows, and `reads_float8` tells the norms before them.
        block.add_module("attn", Float8Attention(block.attn))
        block.add_module("mlp", Float8Mlp(block.mlp))
    return quantised.eval().requires_grad_(False)


def missing_float8(device: torch.device) -> str:
    """Say why a device does not multiply 8-bit numbers with rowwise scales, or return an empty string."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < FLOAT8_CAPABILITY:
            return "has capability {}.{}, below {}.{}".format(*capability, *FLOAT8_CAPABILITY)
    rows, scale = quantise_rows(torch.ones(_MULTIPLE, _MULTIPLE, device=device))
    try:
        torch._scaled_mm(rows, rows.t(), scale_a=scale, scale_b=scale.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError) as error:
        return f"torch {torch.__version__} cannot scale by rows there: {str(error).strip().splitlines()[0]}"
    return ""
