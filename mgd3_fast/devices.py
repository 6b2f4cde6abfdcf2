"""The device and number format a run uses, from what was asked for and what the machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.errors import UserError

if TYPE_CHECKING:
    import torch

BF16_CAPABILITY = (8, 0)  # older GPUs only emulate it


def resolve_device(name: str) -> torch.device:
    """Choose the device.

    Args:
        name: auto (a GPU where there is one), cpu, cuda or cuda:N.

    Returns:
        The device; a GPU always with its number.

    Raises:
        UserError: If the machine does not have it.
    """
    import torch

    found = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and found == 0):
        return torch.device("cpu")
    if found == 0:
        built = "" if torch.version.cuda else " (this torch is built without CUDA)"
        raise UserError(
            f"device must be auto or cpu on this machine, which has no CUDA device{built}, got {name!r}"
        )
    device = torch.device("cuda:0" if name in ("auto", "cuda") else name)
    if (device.index or 0) >= found:
        raise UserError(f"device must be one of cuda:0 to cuda:{found - 1} on this machine, got {name!r}")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Choose the number format of the networks.

    Args:
        name: auto, fp32, bf16 or fp16.
        device: Where the networks run.

    Returns:
        fp32, bf16 or fp16; auto is bf16 on a GPU that computes in it (capability 8.0 and later), else fp32.
    """
    import torch

    if name != "auto":
        return name
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_CAPABILITY:
        return "bf16"
    return "fp32"


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch dtype of fp32, bf16 or fp16."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autoencoder_dtype(precision: str) -> torch.dtype:
    """Return the dtype an autoencoder runs in: never fp16, in which some decoders overflow."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32


def device_name(device: torch.device) -> str:
    """Name a device for the manifest, such as "cuda:0 (NVIDIA H200)"."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
