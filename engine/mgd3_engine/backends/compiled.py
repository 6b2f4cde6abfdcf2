"""The network through torch.compile, one graph for its one input shape.

Shape letters: R rows of a batch, C channels, H W latent size, M numbers of a row's modulation.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from mgd3_engine.backends.request import BackendRequest
from mgd3_engine.denoiser import Denoiser, HoistedDenoiser


class CompiledDenoiser:
    """A denoiser that is compiled on its first call."""

    def __init__(self, denoiser: Denoiser) -> None:
        def network(x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
            return denoiser(x, timestep, class_ids)

        self._network = _compile(network)

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Run the compiled network: a `Denoiser`."""
        return self._network(x, timestep, class_ids)


class CompiledHoistedDenoiser(CompiledDenoiser):
    """A hoisted denoiser whose `denoise` is compiled; `modulation`, once a class and run, is not."""

    def __init__(self, denoiser: HoistedDenoiser) -> None:
        super().__init__(denoiser)

        def denoise(x: Tensor, modulation: Tensor) -> Tensor:
            return denoiser.denoise(x, modulation)

        self.modulation = denoiser.modulation
        self.denoise = _compile(denoise)


def create(request: BackendRequest) -> Denoiser:
    """Wrap the denoiser in torch.compile.

    Args:
        request: The network and how it will be called.

    Returns:
        The denoiser, a `HoistedDenoiser` if the given one is.

    Raises:
        ValueError: The machine has no compiler for the device.
    """
    missing = missing_compiler(request.device)
    if missing:
        raise ValueError(
            f"backend compiled needs {missing}, which this machine does not have; use backend eager"
        )
    if isinstance(request.denoiser, HoistedDenoiser):
        return CompiledHoistedDenoiser(request.denoiser)
    return CompiledDenoiser(request.denoiser)


def missing_compiler(device: torch.device) -> str:
    """Name what torch.compile lacks on this machine, or return an empty string."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton"
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        return f"a C++ compiler ({compiler})"
    return ""


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # torch.compile keeps 8 variants per code object and past them runs uncompiled; a code object of its own
    # keeps many samplers in one process from using up each other's.
    function.__code__ = function.__code__.replace()
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=False)
    return compiled
