"""A DiT whose blocks multiply in 8 bits: dynamic rowwise scaling of activations and weights, bfloat16 around.

Shape letters: N rows of a batch, T tokens, i and o features in and out of a linear map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd3_engine.dit.layers import TokenLinear
from mgd3_engine.dit.model import DiT, DiTBlock

FLOAT8 = torch.float8_e4m3fn  # 4 exponent and 3 mantissa bits (Micikevicius et al. 2022)
LARGEST = 448.0  # of FLOAT8
FLOAT8_CAPABILITY = (8, 9)  # the first GPUs that multiply it
_SMALLEST_SCALE = 1e-12  # of a row of zeros
_MULTIPLE = 16  # of features, for torch's scaled product


class Float8Linear(nn.Module):
    """A linear map whose weight is quantised once, and whose tokens are at every call; as `TokenLinear`.

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

    def forward(self, tokens: Tensor) -> Tensor:
        """Map bfloat16 `[N, T, i]` to `[N, T, o]`."""
        if torch.is_grad_enabled() and tokens.requires_grad:
            raise ValueError("precision must not be fp8 where a gradient is needed: it has none")
        rows, scale = quantise_rows(tokens.reshape(-1, tokens.shape[-1]))  # [N T, i], [N T, 1]
        mapped = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # [N T, o]
        return mapped.view(*tokens.shape[:-1], -1)

    def gelu(self, tokens: Tensor) -> Tensor:
        """Map bfloat16 `[N, T, i]` to `[N, T, o]` and apply GELU in its tanh form."""
        return F.gelu(self(tokens), approximate="tanh")


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round every row to 8 bits, scaled so that its largest number is the largest there is.

    rows = quantised * scale up to half a last place, scale = max |row| / 448.

    Args:
        rows: Any floating dtype `[n, i]`, finite.

    Returns:
        float8_e4m3fn `[n, i]`, and the float32 `[n, 1]` scales.
    """
    wide = rows.to(torch.float32)
    scale = (wide.abs().amax(dim=1, keepdim=True) / LARGEST).clamp(min=_SMALLEST_SCALE)
    # Rounding of the quotient may carry it past the largest number, which would become NaN.
    return (wide / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale


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
        for layer, names in ((block.attn, ("qkv", "proj")), (block.mlp, ("fc1", "fc2"))):
            for name in names:
                setattr(layer, name, Float8Linear(getattr(layer, name)))
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
