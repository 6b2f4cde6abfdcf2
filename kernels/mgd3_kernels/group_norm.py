"""Group normalisation and SiLU on channels-last images, after a channel shift and a residual where they wait.

Shape letters: B images, C channels, H W pixels, G groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mgd3_kernels.launching import kernel_launcher, launches

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_CHANNELS = 8192  # numbers of a pixel that one program of the kernel holds in registers


def group_norm_silu_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    eps: float = 1e-6,
    silu: bool = True,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Normalise in plain torch, rounding after each operation, in any layout.

    Arguments as `group_norm_silu`.

    Returns:
        As `group_norm_silu`.

    Raises:
        ValueError: A shape, dtype or device is wrong.
    """
    _check_arguments(x, groups, {"weight": weight, "bias": bias, "shift": shift}, residual)
    if shift is not None:
        x = x.add_(shift[:, None, None]) if residual is not None else x + shift[:, None, None]
    if residual is not None:
        x.add_(residual)
    normed = torch.group_norm(x, groups, weight, bias, eps)
    return F.silu(normed, inplace=True) if silu else normed


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    eps: float = 1e-6,
    silu: bool = True,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Normalise each group of each image (Wu & He 2018, Eq. 1), then scale, shift and apply SiLU.

    s = x + shift + residual; output = silu(weight (s - mean) / sqrt(variance + eps) + bias). Two Triton
    launches on CUDA: statistics, which also add what waits, and normalisation; float32 inside, rounded once.
    An image's bytes do not depend on the others. Plain torch elsewhere. No gradient.

    Args:
        x: float32, bfloat16 or float16 `[B, C, H, W]`, channels-last where the kernel runs; C at most 8,192.
            Overwritten with s where a residual is given, otherwise left.
        weight: The same dtype `[C]`, contiguous.
        bias: As `weight`.
        groups: G, a divisor of C.
        eps: Added to the variance.
        silu: Whether SiLU follows.
        shift: As `weight`: the bias of the convolution that made x, which then need not add it.
        residual: As `x`.

    Returns:
        The same dtype `[B, C, H, W]`, in the layout of x.

    Raises:
        ValueError: A shape, dtype, device or layout is wrong, or x is on CUDA and Triton is missing.
    """
    if not launches(x):
        return group_norm_silu_reference(
            x, weight, bias, groups, eps=eps, silu=silu, shift=shift, residual=residual
        )
    _check_arguments(x, groups, {"weight": weight, "bias": bias, "shift": shift}, residual)
    for name, tensor in {"x": x, "residual": residual}.items():
        if tensor is not None and not tensor.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(f"{name} must be channels-last, got strides {list(tensor.stride())}")
    normed = torch.empty_like(x, memory_format=torch.channels_last)
    if x.numel():
        kernel_launcher("triton_group_norm")(x, weight, bias, groups, eps, silu, shift, residual, normed)
    return normed


def _check_arguments(
    x: Tensor, groups: int, channels: dict[str, Tensor | None], residual: Tensor | None
) -> None:
    """Refuse what the kernel would read or write wrongly; looks at no tensor's values."""
    if x.ndim != 4:
        raise ValueError(f"x must be [B, C, H, W], got {list(x.shape)}")
    C = x.shape[1]
    if x.dtype not in _DTYPES:
        raise ValueError(f"x must be {' or '.join(str(dtype) for dtype in _DTYPES)}, got {x.dtype}")
    if not 1 <= C <= MAX_CHANNELS:
        raise ValueError(f"x must have from 1 to {MAX_CHANNELS} channels, got {C}")
    if groups < 1 or C % groups:
        raise ValueError(f"groups must be a divisor of {C} channels, got {groups}")
    for name, tensor in {**channels, "residual": residual}.items():
        if tensor is None:
            continue
        shape = tuple(x.shape) if name == "residual" else (C,)
        if tuple(tensor.shape) != shape or tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{name} must be {x.dtype} {list(shape)} on {x.device},"
                f" got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            )
        if name != "residual" and not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {list(tensor.stride())}")
