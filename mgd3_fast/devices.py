"""The device, number format and processors a run uses, from what was asked for and what the machine has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mgd3_fast.errors import UserError

if TYPE_CHECKING:
    import torch

BF16_CAPABILITY = (8, 0)  # older GPUs only emulate it


def resolve_device(name: str) -> torch.device:
    """Choose the device.

    Args:
        name: auto (a GPU where there is one; of several, the one that is this process's place among those
            that torchrun or srun started on the machine), cpu, cuda or cuda:N.

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
    if name == "auto":
        return torch.device(f"cuda:{_place_on_machine() % found}")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if (device.index or 0) >= found:
        raise UserError(f"device must be one of cuda:0 to cuda:{found - 1} on this machine, got {name!r}")
    return device


def worker_devices(workers: int | str, name: str) -> list[str]:
    """Choose the device of each worker of this machine.

    Args:
        workers: How many, or auto: one for every GPU that this process sees, one on a CPU, and one where a
            launcher has started a process for each of them.
        name: auto, cpu, cuda or cuda:N.

    Returns:
        Names that `resolve_device` takes; those of GPUs in turn, where there are several workers.
    """
    import torch

    found = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    if workers == "auto":
        workers = found if name == "auto" and _started_on_machine() == 1 else 1
    if int(workers) <= 1:
        return [name]
    return [f"cuda:{number % found}" if found else name for number in range(int(workers))]


def _started_on_machine() -> int:
    """Processes that torchrun, or srun, has started, which share the machine."""
    count = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", ""))
    return int(count) if count.isdecimal() else 1


def _place_on_machine() -> int:
    place = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    return int(place) if place.isdecimal() else 0


def resolve_precision(name: str, device: torch.device) -> str:
    """Choose the number format of the networks.

    Args:
        name: auto, fp32, bf16, fp16 or fp8.
        device: Where the networks run.

    Returns:
        fp32, bf16, fp16 or fp8; auto is bf16 on a GPU that computes in it (capability 8.0 and later), else
        fp32. fp8 is bf16 with the linear maps of a DiT's blocks in 8 bits.

    Raises:
        UserError: If fp8 is asked for where there is no GPU of capability 8.9 or later.
    """
    import torch

    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if name == "fp8":
        from mgd3_engine.dit import FLOAT8_CAPABILITY

        if capability is None or capability < FLOAT8_CAPABILITY:
            found = "" if capability is None else f", of capability {capability[0]}.{capability[1]}"
            raise UserError(
                f"precision must be auto, fp32, bf16 or fp16 on {device}{found}, got 'fp8',"
                f" which needs a GPU of capability {FLOAT8_CAPABILITY[0]}.{FLOAT8_CAPABILITY[1]} or later"
            )
    if name != "auto":
        return name
    return "bf16" if capability is not None and capability >= BF16_CAPABILITY else "fp32"


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch dtype of a network's input and activations: bfloat16 for fp8."""
    import torch

    half = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
    return {"fp32": torch.float32, **half}[precision]


def autoencoder_dtype(precision: str) -> torch.dtype:
    """Return the dtype an autoencoder runs in: never fp16, in which some decoders overflow."""
    import torch

    return torch.bfloat16 if precision in ("bf16", "fp8") else torch.float32


def device_name(device: torch.device) -> str:
    """Name a device for the manifest, such as "cuda:0 (NVIDIA H200)"."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def usable_processors() -> int:
    """Count the processors that this process may use: affinity, and the limit of its container."""
    from joblib import cpu_count  # type: ignore[import-untyped]

    return int(cpu_count())
