"""A generator's network, where and in the number format that a run wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.devices import dtype_of
from mgd3_fast.errors import UserError
from mgd3_fast.generators.base import Generator

if TYPE_CHECKING:
    import torch

    from mgd3_engine import Denoiser


def place_network(generator: Generator, device: torch.device, precision: str) -> Denoiser:
    """Load a generator's network where and as it is wanted.

    Args:
        generator: Its network.
        device: Where it runs.
        precision: fp32, bf16, fp16 or fp8.

    Returns:
        The denoiser, whose input is of `dtype_of(precision)`.

    Raises:
        UserError: The weights cannot be had, or fp8 is asked for and they are no DiT's, or of sizes that are
            no multiples of 16.
    """
    network = generator.denoiser(device, dtype_of(precision))
    if precision != "fp8":
        return network
    from mgd3_engine.dit import DiT, float8_linears

    if not isinstance(network, DiT):
        raise UserError(f"precision must be auto, fp32, bf16 or fp16 for {generator.name}, got 'fp8'")
    try:
        return float8_linears(network)
    except ValueError as error:
        raise UserError(str(error)) from None
