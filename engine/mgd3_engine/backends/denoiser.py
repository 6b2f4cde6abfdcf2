"""What a network is to the sampler, and what a backend is asked for.

Shape letters: R rows of a batch (2B with classifier-free guidance, else B), C channels, H W latent size, P
patch size, M numbers that a row's timestep and class set in the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x `[R, C, H, W]`, timestep int64 `[R]`, class_ids int64 `[R]`) -> `[R, C or 2C, H, W]`."""


@runtime_checkable
class HoistedDenoiser(Protocol):
    """A denoiser in two parts: what timestep and class set is computed once a run, not once a step."""

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Run both parts: a `Denoiser`."""
        ...

    def modulation(self, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Compute `[R, M]` from timesteps int64 `[R]` and class_ids int64 `[R]`."""
        ...

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Compute `[R, C or 2C, H, W]` from x `[R, C, H, W]` and a modulation `[R, M]`."""
        ...


@runtime_checkable
class PatchDenoiser(HoistedDenoiser, Protocol):
    """A hoisted denoiser whose output lies in memory patch after patch, and need not be put in its places."""

    def denoise_patches(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Compute `denoise`'s output as a view `[R, C or 2C, H/P, P, W/P, P]` of what the network wrote."""
        ...


@dataclass(frozen=True, kw_only=True)
class BackendRequest:
    """A network and how it will be called.

    Args:
        denoiser: The network.
        device: Where it runs.
        dtype: Of its input x: float32, bfloat16 or float16.
        rows: R, the most rows of a call; all calls have them unless the sampler has several batch shapes.
        cache_dir: Keeps what a backend exports or builds; None is `mgd3_engine.cache.default_cache_dir()`.
    """

    denoiser: Denoiser
    device: torch.device
    dtype: torch.dtype
    rows: int
    cache_dir: Path | None = None
