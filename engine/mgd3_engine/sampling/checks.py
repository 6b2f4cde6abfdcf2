"""What a sampler refuses: options out of range, a network of another shape, latents that are not finite.

Shape letters: n images of a batch, R rows of the network's input, C channels, H W latent size, P patch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mgd3_engine.denoiser import CachingDenoiser, Denoiser
from mgd3_engine.sampling.graphs import GRAPHS


def check_options(
    cfg_scale: float,
    null_class: int | None,
    cfg_channels: int | None,
    cfg_interval: Sequence[int] | None,
    timesteps: int,
    dtype: torch.dtype,
    graphs: str,
) -> None:
    """Refuse options of a sampler that are out of range."""
    if not math.isfinite(cfg_scale) or cfg_scale < 0.0:
        raise ValueError(f"cfg_scale must be a finite number of at least 0, got {cfg_scale}")
    if cfg_channels is not None and cfg_channels < 0:
        raise ValueError(f"cfg_channels must be at least 0, or None for all, got {cfg_channels}")
    if null_class is None and cfg_scale != 1.0:
        raise ValueError(f"null_class must be the id of the null class for cfg_scale {cfg_scale}, got None")
    if cfg_interval is not None:
        _check_interval(cfg_interval, timesteps)
        if cfg_scale == 1.0:
            raise ValueError(
                "cfg_interval must be left out where cfg_scale is 1: there is no guidance to limit"
            )
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
    if graphs not in GRAPHS:
        raise ValueError(f"graphs must be one of {', '.join(GRAPHS)}, got {graphs!r}")


def _check_interval(interval: Sequence[int], timesteps: int) -> None:
    low, high = interval if len(interval) == 2 else (1, 0)
    if not (isinstance(low, int) and isinstance(high, int)) or not 0 <= low <= high < timesteps:
        raise ValueError(
            f"cfg_interval must be a lowest and a highest timestep from 0 to {timesteps - 1},"
            f" got {', '.join(map(str, interval))}"
        )


def check_caches(denoiser: Denoiser, backend: str, needs_grad: bool) -> None:
    """Refuse a cache where a network's blocks cannot be left out, or a term differentiates through them."""
    if backend != "eager":
        raise ValueError(f"backend must be auto or eager with a cache, got {backend}")
    if not isinstance(denoiser, CachingDenoiser):
        raise ValueError(f"denoiser must be a DiT with a cache, got {type(denoiser).__name__}")
    if needs_grad:
        raise ValueError(
            "terms must need no gradient with a cache, which leaves the network out on some steps"
        )


def check_output(out: Tensor, net_input: Tensor, variance: str) -> None:
    """Refuse what a network returned for `net_input` `[R, C, H, W]` if it is of another shape.

    Patches, `[R, C or 2C, H/P, P, W/P, P]`, are of the right shape.
    """
    R, C, H, W = net_input.shape
    shape = tuple(out.shape)
    if out.ndim == 6:
        shape = (*shape[:2], shape[2] * shape[3], shape[4] * shape[5])
    if shape not in ((R, C, H, W), (R, 2 * C, H, W)):
        raise ValueError(
            f"denoiser must return [{R}, {C} or {2 * C}, {H}, {W}] for an input of {[R, C, H, W]},"
            f" got {list(out.shape)}"
        )
    learned = out.shape[1] == 2 * C
    if learned and variance == "fixed_large":
        raise ValueError(f"variance must be fixed_small or learned_range for a network of {2 * C} channels")
    if variance == "learned_range" and not learned:
        raise ValueError(f"variance must be fixed_small or fixed_large for a network of {C} channels")


def check_finite(latents: Tensor, image_index: Tensor, dtype: torch.dtype) -> None:
    """Refuse latents `[n, C, H, W]` that are not finite, naming the image; waits for the device."""
    finite = torch.isfinite(latents).flatten(1).all(dim=1).cpu()
    if not finite.all():
        image = int(image_index[int((~finite).long().argmax())])
        raise ValueError(
            f"the latents of image {image} became NaN or infinite:"
            f" the network overflows in {dtype}, or mode_scale or cfg_scale is too large"
        )
