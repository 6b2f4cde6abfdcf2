"""What runs the network: a registry of named backends, each of which turns a denoiser into a faster one.

Shape letters: R rows of a batch (2B with classifier-free guidance, else B), C channels, H W latent size.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x `[R, C, H, W]`, timestep int64 `[R]`, class_ids int64 `[R]`) -> `[R, C or 2C, H, W]`."""

Creator = Callable[[Denoiser, torch.device], Denoiser]

_log = logging.getLogger(__name__)


def create_backend(name: str, denoiser: Denoiser, device: torch.device) -> tuple[str, Denoiser]:
    """Make the callable that runs the network on every step.

    A backend that is asked for by name runs or raises; only `auto` chooses, and logs what and why.

    Args:
        name: One of `backend_names()`, or "auto".
        denoiser: The network.
        device: Where it runs.

    Returns:
        The name of the backend, never "auto", and the denoiser to call.

    Raises:
        ValueError: `name` is unknown, or the backend cannot run on this machine.
    """
    if name == "auto":
        name, reason = _choose(device)
        _log.info("backend auto is %s: %s", name, reason)
    if name not in _CREATORS:
        raise ValueError(f"backend must be one of auto, {', '.join(backend_names())}, got {name!r}")
    return name, _CREATORS[name](denoiser, device)


def backend_names() -> tuple[str, ...]:
    """List the backends that can be asked for by name."""
    return tuple(_CREATORS)


def _choose(device: torch.device) -> tuple[str, str]:
    if device.type != "cuda":
        return "eager", f"compiling pays on a GPU, the device is {device.type}"
    missing = _missing_compiler(device)
    if missing:
        return "eager", f"compiling needs {missing}"
    return "compiled", f"the device is {device.type}"


def _eager(denoiser: Denoiser, device: torch.device) -> Denoiser:
    return denoiser


def _compiled(denoiser: Denoiser, device: torch.device) -> Denoiser:
    missing = _missing_compiler(device)
    if missing:
        raise ValueError(f"backend compiled must have {missing}, got a machine without; use backend eager")

    def network(x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        return denoiser(x, timestep, class_ids)

    # torch.compile keeps 8 variants per code object and past them runs uncompiled; a code object of its own
    # keeps many samplers in one process from using up each other's.
    network.__code__ = network.__code__.replace()
    compiled: Denoiser = torch.compile(network, dynamic=False)
    return compiled


def _missing_compiler(device: torch.device) -> str:
    """Name what torch.compile lacks on this machine, or return an empty string."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton"
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        return f"a C++ compiler ({compiler})"
    return ""


_CREATORS: dict[str, Creator] = {"eager": _eager, "compiled": _compiled}
