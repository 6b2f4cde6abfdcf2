"""How long a training will take, from a few steps that change nothing.

Shape letters: B images, R resolution in pixels, C latent channels, h w latent size.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn

from mgd3_engine.autoencoder import AutoencoderKL
from mgd3_engine.dit import DiT
from mgd3_fast.devices import device_name
from mgd3_fast.fit import steps_done
from mgd3_fast.progress import duration
from mgd3_fast.train.autoencoder import vae_loss
from mgd3_fast.train.diffusion_loss import DiffusionLoss
from mgd3_fast.train.log import CHECKPOINTS
from mgd3_fast.train.preset import steps_of
from mgd3_fast.train.run import TrainingRun

_TIMED_STEPS = 3  # after one that fills caches
_WORTH_SAYING = 100  # steps
_STATE_BYTES = 12  # a weight's two moments and average, which the timed steps do not have

_Network = TypeVar("_Network", bound=nn.Module)


def tell_estimate(run: TrainingRun, vae: AutoencoderKL | None, network: DiT | None) -> TrainingRun:
    """Say about how long the training will take and how much memory; nothing of a short one.

    Steps are timed on images and latents of noise, forwards and backwards, without the optimiser's share; the
    networks stay as they are.

    Args:
        run: The run.
        vae: The autoencoder before its first step, or None where it is not trained.
        network: The DiT likewise.

    Returns:
        The run, which knows how long the DiT takes after the autoencoder.
    """
    seconds: dict[str, float] = {}
    if vae is not None and (steps := _steps_left(run, "vae")) >= _WORTH_SAYING:
        seconds["the autoencoder"] = steps * _step_s(run, vae, _autoencoder_loss)
    if network is not None and (steps := _steps_left(run, "dit")) >= _WORTH_SAYING:
        seconds["the DiT"] = steps * _step_s(run, network, _network_loss)
    if not seconds:
        return run
    parts = " and ".join(f"{duration(taken)} for {part}" for part, taken in seconds.items())
    weights = max(sum(weight.numel() for weight in one.parameters()) for one in (vae, network) if one)
    memory = (_peak_bytes(run.device) + _STATE_BYTES * weights) / 2**30
    judged = network is not None and run.config.judge != "off"
    after = "; judging comes after that" if judged else ""
    run.progress.note(f"about {parts} on {device_name(run.device)}, {memory:.1f} GiB{after}")
    return replace(run, later_s=seconds.get("the DiT", 0.0))


def _steps_left(run: TrainingRun, part: str) -> int:
    return steps_of(run.config, part, len(run.dataset)) - steps_done(run.out / CHECKPOINTS / f"{part}.pt")


def _step_s(run: TrainingRun, network: _Network, loss: Callable[[TrainingRun, _Network], Tensor]) -> float:
    """Seconds of a step; the median of some."""
    network.to(run.device).train()
    taken = []
    for _ in range(1 + _TIMED_STEPS):
        started = time.perf_counter()
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
            value = loss(run, network)
        value.backward()  # type: ignore[no-untyped-call]
        float(value.detach())  # waits for a GPU
        taken.append(time.perf_counter() - started)
    network.zero_grad(set_to_none=True)
    return median(taken[1:])


def _autoencoder_loss(run: TrainingRun, vae: AutoencoderKL) -> Tensor:
    config, R, generator = run.config, run.resolution, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (config.vae_batch_size, 3, R, R), generator=generator)
    sent = images.to(run.device, torch.uint8)
    return vae_loss(vae, sent, generator, kind=config.vae_loss, kl_weight=config.kl_weight)["loss"]


def _network_loss(run: TrainingRun, network: DiT) -> Tensor:
    described, B = network.config, run.config.batch_size
    latents = torch.ones(B, described.in_channels, described.input_size, described.input_size)
    x0, numbers = latents.to(run.device), torch.zeros(B, dtype=torch.int64, device=run.device)
    return DiffusionLoss(run.schedule.build(), run.device)(network, x0, numbers, numbers, x0)["loss"]


def _peak_bytes(device: torch.device) -> int:
    """Most memory that was used until now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
