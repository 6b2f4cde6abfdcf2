"""The backends by name: each turns a denoiser into a faster one.

A further backend is a file with a creator, its line in `_CREATORS`, and its place in `_choose`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import cast

from mgd3_engine.backends.request import BackendRequest
from mgd3_engine.denoiser import Denoiser

_log = logging.getLogger(__name__)

_CREATORS = {
    "eager": "mgd3_engine.backends.eager:create",
    "compiled": "mgd3_engine.backends.compiled:create",
    "tensorrt": "mgd3_engine.backends.tensorrt:create",
    "onnxruntime": "mgd3_engine.backends.onnxruntime:create",
}


def create_backend(name: str, request: BackendRequest) -> tuple[str, Denoiser]:
    """Make the callable that runs the network on every step.

    A backend that is asked for by name runs or raises; only `auto` chooses, and logs what and why.

    Args:
        name: One of `backend_names()`, or "auto".
        request: The network and how it will be called.

    Returns:
        The name of the backend, never "auto", and the denoiser to call.

    Raises:
        ValueError: `name` is unknown, or the backend cannot run on this machine.
    """
    if name == "auto":
        name, reason = _choose(request)
        _log.info("backend auto is %s: %s", name, reason)
    if name not in _CREATORS:
        raise ValueError(f"backend must be one of auto, {', '.join(backend_names())}, got {name!r}")
    module, _, create = _CREATORS[name].partition(":")
    return name, cast(Denoiser, getattr(import_module(module), create)(request))


def backend_names() -> tuple[str, ...]:
    """List the backends that can be asked for by name."""
    return tuple(_CREATORS)


def _choose(request: BackendRequest) -> tuple[str, str]:
    """Choose by what was measured; no network is compiled, and nobody waits for it, on a guess."""
    if request.device.type != "cuda":
        return "eager", f"no gain from compiling was measured on device {request.device.type}"
    from mgd3_engine.dit import DiT  # here, because other networks do without

    if isinstance(request.denoiser, DiT):
        # H200, DiT-XL/2, 128 images, bf16: 20.7 images/s eager, 20.5 compiled, first batch 10 to 48 s later.
        return "eager", "a DiT brings fused kernels of its own, and compiled it is no faster"
    return "eager", "no gain from compiling was measured for this network; backend compiled tries it"
