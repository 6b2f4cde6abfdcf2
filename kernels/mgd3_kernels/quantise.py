"""Rows of 8-bit numbers for scaled matrix products: what every kernel that writes them must give.

Shape letters: N rows of a batch, T tokens of a row, h heads, e numbers of a head, d numbers of a token.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mgd3_kernels.launching import kernel_launcher, launches
from mgd3_kernels.tiles import MAX_NUMBERS

FLOAT8 = torch.float8_e4m3fn  # 4 exponent and 3 mantissa bits (Micikevicius et al. 2022)
FLOAT8_CAPABILITY = (8, 9)  # the first GPUs that convert to it and multiply it
LARGEST = 448.0  # of FLOAT8
SMALLEST_SCALE = 1e-12  # of a row of zeros
# GELU(x) = x sigmoid(x (LINEAR + CUBIC x^2)) in its tanh form
GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class QuantisedRows(NamedTuple):
    """Tokens in 8 bits, each with a scale of its own: token = rows * scale, up to half a last place.

    Attributes:
        rows: float8_e4m3fn `[..., d]`.
        scale: float32 `[..., 1]`.
    """

    rows: Tensor
    scale: Tensor


def quantise_rows(rows: Tensor) -> QuantisedRows:
    """Round every row to 8 bits, scaled so that its largest number is the largest there is.

    scale = max |row| / 448, at least 1e-12, so that zeros stay zeros. quantised = row * (1 / scale), to
    nearest, ties to even. Both quotients are products with a rounded reciprocal, one division a row: CPUs,
    GPUs and kernels then give the same bits. A row with a NaN or an infinity has that as its scale, holds
    only NaN or zeros, and makes NaN of every product. Plain torch on every device: kernels are compared with
    it.

    Args:
        rows: Any floating dtype `[..., d]`.

    Returns:
        The rows in 8 bits and their scales.
    """
    wide = rows.to(torch.float32)
    scale = (wide.abs().amax(dim=-1, keepdim=True) * (1 / LARGEST)).clamp(min=SMALLEST_SCALE)
    # No clamp: three roundings leave the largest quotient below 448.001, and up to 464 all round to 448.
    return QuantisedRows((wide * scale.reciprocal()).to(FLOAT8), scale)


def quantise_heads_reference(mixed: Tensor) -> QuantisedRows:
    """Put the heads of each token side by side, then quantise, in plain torch.

    Arguments as `quantise_heads`.

    Returns:
        As `quantise_heads`.

    Raises:
        ValueError: A shape, dtype or layout is wrong.
    """
    _check("mixed", mixed, 4)
    return quantise_rows(mixed.transpose(1, 2).flatten(2))


def gelu_quantise_reference(values: Tensor) -> QuantisedRows:
    """Apply GELU in float32, then quantise, in plain torch.

    Arguments as `gelu_quantise`.

    Returns:
        As `gelu_quantise`.

    Raises:
        ValueError: A shape, dtype or layout is wrong.
    """
    _check("values", values, 3)
    wide = values.to(torch.float32)
    # 1 + tanh(u) as 2 sigmoid(2 u), which loses no digits where GELU is small; torch's own GELU does.
    return quantise_rows(wide * torch.sigmoid(wide * (GELU_LINEAR + GELU_CUBIC * wide * wide)))


def quantise_heads(mixed: Tensor) -> QuantisedRows:
    """Merge the heads of an attention's output and quantise the tokens: the bits of `quantise_rows`.

    One Triton launch on CUDA that reads every number once where it lies; plain torch elsewhere. No gradient.

    Args:
        mixed: float32, bfloat16 or float16 `[N, h, T, e]`, in any layout whose last stride is 1; h e up to
            8,192.

    Returns:
        Rows `[N, T, h e]` and scales `[N, T, 1]`.

    Raises:
        ValueError: A shape, dtype or layout is wrong, or mixed is on CUDA and Triton is missing or the GPU
            has no 8-bit numbers.
    """
    if not launches(mixed):
        return quantise_heads_reference(mixed)
    _check("mixed", mixed, 4)
    return _launch(mixed.transpose(1, 2), gelu=False)


def gelu_quantise(values: Tensor) -> QuantisedRows:
    """Apply GELU in its tanh form (Hendrycks & Gimpel 2016) and quantise the tokens.

    Between the two nothing is rounded beyond float32. Kernel and reference compute the sigmoid each in its
    own way, so that scales may differ in their last place, and numbers where that decides a tie. One Triton
    launch on CUDA, plain torch elsewhere. No gradient.

    Args:
        values: float32, bfloat16 or float16 `[N, T, d]`, whose last stride is 1; d up to 8,192.

    Returns:
        Rows `[N, T, d]` and scales `[N, T, 1]`.

    Raises:
        ValueError: As `quantise_heads`.
    """
    if not launches(values):
        return gelu_quantise_reference(values)
    _check("values", values, 3)
    return _launch(values[:, :, None], gelu=True)  # one head


def empty_rows(shape: tuple[int, int, int], device: torch.device) -> QuantisedRows:
    """Allocate what a kernel is to fill.

    Raises:
        ValueError: The GPU has no 8-bit numbers.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FLOAT8_CAPABILITY:
        found = torch.cuda.get_device_capability(device)
        raise ValueError(
            "device must have capability {}.{} or later for 8-bit rows, got {}.{}".format(
                *FLOAT8_CAPABILITY, *found
            )
        )
    rows = torch.empty(shape, dtype=FLOAT8, device=device)
    return QuantisedRows(rows, torch.empty((*shape[:2], 1), dtype=torch.float32, device=device))


def _launch(heads: Tensor, *, gelu: bool) -> QuantisedRows:
    """Quantise `[N, T, h, e]` heads as tokens `[N, T, h e]`."""
    N, T, h, e = heads.shape
    quantised = empty_rows((N, T, h * e), heads.device)
    if heads.stride(2) == e:  # they lie side by side: one head, for reads of 16 bytes
        heads = heads.flatten(2)[:, :, None]
    if heads.numel():
        kernel_launcher("triton_quantise")(heads, quantised, gelu)
    return quantised


def _check(name: str, tensor: Tensor, ndim: int) -> None:
    """Refuse what the kernel would read wrongly; looks at no tensor's values."""
    if tensor.ndim != ndim:
        shape = "[N, h, T, e]" if ndim == 4 else "[N, T, d]"
        raise ValueError(f"{name} must be {shape}, got {list(tensor.shape)}")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} must be {' or '.join(str(dtype) for dtype in DTYPES)}, got {tensor.dtype}")
    numbers = tensor.shape[-1] * (tensor.shape[1] if ndim == 4 else 1)
    if not 1 <= numbers <= MAX_NUMBERS:
        raise ValueError(f"{name} must have from 1 to {MAX_NUMBERS} numbers a token, got {numbers}")
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} must have stride 1 along its last axis, got {list(tensor.stride())}")
