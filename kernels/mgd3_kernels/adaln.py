"""adaLN between the matrix products of a DiT block: the modulated norm, alone or after a gated residual.

Shape letters: N rows of a batch, T tokens of a row, d hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mgd3_kernels.launching import kernel_launcher, launches
from mgd3_kernels.quantise import DTYPES, QuantisedRows, empty_rows, quantise_rows
from mgd3_kernels.tiles import MAX_NUMBERS


def modulated_norm_reference(tokens: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Norm and modulate tokens in plain torch, rounding after each operation.

    Arguments as `modulated_norm`.

    Returns:
        As `modulated_norm`.

    Raises:
        ValueError: A shape, dtype, device or layout is wrong.
    """
    _check_arguments(tokens, {"shift": shift, "scale": scale}, {})
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=eps)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])  # [N, T, d]


def gated_residual_norm_reference(
    tokens: Tensor, gate: Tensor, branch: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6
) -> Tensor:
    """Add a branch, norm and modulate in plain torch, rounding after each operation.

    Arguments as `gated_residual_norm`.

    Returns:
        As `gated_residual_norm`.

    Raises:
        ValueError: A shape, dtype, device or layout is wrong.
    """
    _check_arguments(tokens, {"gate": gate, "shift": shift, "scale": scale}, {"branch": branch})
    tokens.addcmul_(gate[:, None], branch)
    return modulated_norm_reference(tokens, shift, scale, eps=eps)


def modulated_norm(tokens: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Apply adaLN: LayerNorm without own gain, then the conditioned gain and shift (Peebles & Xie 2023, 3.2).

    One Triton launch on CUDA, computed in float32 and rounded once; plain torch elsewhere. No gradient.

    Args:
        tokens: float32, bfloat16 or float16 `[N, T, d]`, contiguous, d up to 8,192.
        shift: The same dtype `[N, d]`; rows may lie apart, as those of a column slice do.
        scale: As `shift`: output = norm(tokens) (1 + scale) + shift.
        eps: Added to the variance.

    Returns:
        The same dtype `[N, T, d]`.

    Raises:
        ValueError: A shape, dtype, device or layout is wrong, or tokens is on CUDA and Triton is missing.
    """
    if not launches(tokens):
        return modulated_norm_reference(tokens, shift, scale, eps=eps)
    _check_arguments(tokens, {"shift": shift, "scale": scale}, {})
    return _launch(tokens, None, None, shift, scale, eps)


def gated_residual_norm(
    tokens: Tensor, gate: Tensor, branch: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6
) -> Tensor:
    """Add a block's gated branch to the residual stream, and apply adaLN for the branch that follows.

    tokens <- tokens + gate branch; output = norm(tokens) (1 + scale) + shift (Peebles & Xie 2023, 3.2).
    One Triton launch on CUDA that reads and writes every token once; plain torch elsewhere. No gradient.

    Args:
        tokens: As in `modulated_norm`; overwritten with the sum.
        gate: As `shift`.
        branch: The same dtype `[N, T, d]`, contiguous.
        shift: As in `modulated_norm`.
        scale: As in `modulated_norm`.
        eps: Added to the variance.

    Returns:
        The same dtype `[N, T, d]`: the norm of the sum as it is stored.

    Raises:
        ValueError: As `modulated_norm`.
    """
    if not launches(tokens):
        return gated_residual_norm_reference(tokens, gate, branch, shift, scale, eps=eps)
    _check_arguments(tokens, {"gate": gate, "shift": shift, "scale": scale}, {"branch": branch})
    return _launch(tokens, gate, branch, shift, scale, eps)


def modulated_norm_float8(
    tokens: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6
) -> QuantisedRows:
    """Apply adaLN and quantise: the bits of `quantise_rows` of what `modulated_norm` returns.

    Arguments as `modulated_norm`.

    Returns:
        Rows `[N, T, d]` and scales `[N, T, 1]`.

    Raises:
        ValueError: As `modulated_norm`, or the GPU has no 8-bit numbers.
    """
    if not launches(tokens):
        return quantise_rows(modulated_norm_reference(tokens, shift, scale, eps=eps))
    _check_arguments(tokens, {"shift": shift, "scale": scale}, {})
    return _launch_float8(tokens, None, None, shift, scale, eps)


def gated_residual_norm_float8(
    tokens: Tensor, gate: Tensor, branch: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6
) -> QuantisedRows:
    """Add a branch, apply adaLN and quantise: the bits of `quantise_rows` after `gated_residual_norm`.

    Arguments as `gated_residual_norm`.

    Returns:
        Rows `[N, T, d]` and scales `[N, T, 1]`; tokens keep their dtype.

    Raises:
        ValueError: As `gated_residual_norm`, or the GPU has no 8-bit numbers.
    """
    if not launches(tokens):
        return quantise_rows(gated_residual_norm_reference(tokens, gate, branch, shift, scale, eps=eps))
    _check_arguments(tokens, {"gate": gate, "shift": shift, "scale": scale}, {"branch": branch})
    return _launch_float8(tokens, gate, branch, shift, scale, eps)


def _launch(
    tokens: Tensor, gate: Tensor | None, branch: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> Tensor:
    normed = torch.empty_like(tokens)
    if tokens.numel():
        kernel_launcher("triton_adaln")(tokens, gate, branch, shift, scale, normed, None, eps)
    return normed


def _launch_float8(
    tokens: Tensor, gate: Tensor | None, branch: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> QuantisedRows:
    N, T, d = tokens.shape
    normed = empty_rows((N, T, d), tokens.device)
    if tokens.numel():
        kernel_launcher("triton_adaln")(tokens, gate, branch, shift, scale, *normed, eps)
    return normed


def _check_arguments(tokens: Tensor, rows: dict[str, Tensor], tiles: dict[str, Tensor]) -> None:
    """Refuse what the kernel would read or write wrongly; looks at no tensor's values."""
    if tokens.ndim != 3:
        raise ValueError(f"tokens must be [N, T, d], got {list(tokens.shape)}")
    N, T, d = tokens.shape
    if tokens.dtype not in DTYPES:
        raise ValueError(f"tokens must be {' or '.join(str(dtype) for dtype in DTYPES)}, got {tokens.dtype}")
    if not 1 <= d <= MAX_NUMBERS:
        raise ValueError(f"tokens must have a hidden size from 1 to {MAX_NUMBERS}, got {d}")
    for name, tensor in {"tokens": tokens, **rows, **tiles}.items():
        shape = (N, d) if name in rows else (N, T, d)
        if tuple(tensor.shape) != shape or tensor.dtype != tokens.dtype or tensor.device != tokens.device:
            raise ValueError(
                f"{name} must be {tokens.dtype} {list(shape)} on {tokens.device},"
                f" got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            )
        if name in rows and d > 1 and tensor.stride(1) != 1:
            raise ValueError(f"{name} must have contiguous rows, got strides {list(tensor.stride())}")
        if name not in rows and not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {list(tensor.stride())}")
