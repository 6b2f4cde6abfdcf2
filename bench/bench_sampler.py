"""The whole sampler, batched, against the authors' way: one image at a time, two rows, float32.

    pytest bench/bench_sampler.py --benchmark-only

Both run the same network from the same noise, and their latents are compared before anything is timed.
`images_per_s` and, beside ours, `speedup` (same process, same threads) are in the extra information.

Shape letters: N images, C channels, H W latent size, S steps.
"""

from __future__ import annotations

import math
import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from mgd3_engine import Denoiser, GuidedSampler, ModeGuidance, NoiseSchedule, image_seeds
from mgd3_fast.generators import load_generator
from mgd3_kernels import philox_normal

N, N_AUTHORS, SHAPE, STEPS, CLASSES = 64, 8, (4, 8, 8), 50, 10
CFG_SCALE, CFG_CHANNELS, GUIDANCE = 4.0, 3, ModeGuidance(scale=0.1, t_stop=25)
# Largest difference of latents over their root mean square. Measured: 8e-6 to 1.2e-5.
BOUND = 5e-5


@pytest.fixture(scope="module")
def network() -> Denoiser:
    """The shipped demo model's DiT, 2.0 million parameters."""
    return load_generator("demo-mnist5k").denoiser(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor, Tensor]:
    modes = torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(1))
    return torch.arange(N) % CLASSES, modes, image_seeds(0, [(str(k % CLASSES), k) for k in range(N)])


@torch.no_grad()
def sample_as_the_authors_do(network: Denoiser, class_id: Tensor, mode: Tensor, noise: Tensor) -> Tensor:
    """Sample one image from two rows, x recomputed with named quantities at every step (MGD3, section 3)."""
    respaced = NoiseSchedule.linear().respaced(STEPS)
    null = torch.full_like(class_id, CLASSES)
    class_ids = torch.cat([class_id, null])
    x = noise[STEPS].repeat(2, 1, 1, 1)  # [2, C, H, W]
    for i in reversed(range(STEPS)):
        timestep = torch.full((2,), int(respaced.timesteps[i]))
        half = x[:1]
        out = network(torch.cat([half, half]), timestep, class_ids)
        eps, v = out[:, :4], out[:, 4:]
        guided = eps[1:, :CFG_CHANNELS] + CFG_SCALE * (eps[:1, :CFG_CHANNELS] - eps[1:, :CFG_CHANNELS])
        eps = torch.cat([guided.repeat(2, 1, 1, 1), eps[:, CFG_CHANNELS:]], dim=1)
        low, high = float(respaced.posterior_log_variance_clipped[i]), math.log(respaced.betas[i])
        fraction = (v + 1) / 2
        sigma = torch.exp(0.5 * (fraction * high + (1 - fraction) * low))
        abar = float(respaced.alphas_cumprod[i])
        x0 = x / math.sqrt(abar) - math.sqrt(1 / abar - 1) * eps
        mean = float(respaced.posterior_mean_x0[i]) * x0 + float(respaced.posterior_mean_xt[i]) * x
        if i > GUIDANCE.t_stop:
            mean = mean + GUIDANCE.scale * sigma * (mode - x0[:1])
        x = mean + sigma * noise[i] if i else mean
    return x[:1]


@pytest.fixture(scope="module")
def authors(network: Denoiser, images: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, float]:
    """The first latents made the authors' way, and its images per second: the best of three runs."""
    class_ids, modes, seeds = (tensor[:N_AUTHORS] for tensor in images)
    # Drawn before the clock starts: their own generator costs next to nothing, ours does at batch 1.
    noise = torch.stack([philox_normal(seeds, step, SHAPE) for step in range(STEPS + 1)], dim=1)
    latents, seconds = torch.empty(0), []
    for _ in range(3):
        start = time.perf_counter()
        rows = zip(class_ids.split(1), modes.split(1), noise, strict=True)
        latents = torch.cat([sample_as_the_authors_do(network, *row) for row in rows])
        seconds.append(time.perf_counter() - start)
    return latents, N_AUTHORS / min(seconds)


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_sampler(
    benchmark: BenchmarkFixture,
    network: Denoiser,
    images: tuple[Tensor, Tensor, Tensor],
    authors: tuple[Tensor, float],
    batch_size: int,
) -> None:
    sampler = GuidedSampler(
        network,
        schedule=NoiseSchedule.linear(),
        steps=STEPS,
        cfg_scale=CFG_SCALE,
        null_class=CLASSES,
        cfg_channels=CFG_CHANNELS,
        guidance=GUIDANCE,
        batch_size=batch_size,
        backend="eager",
    )
    latents, authors_rate = authors
    count = max(N_AUTHORS, batch_size)
    rows = [tensor[:count] for tensor in images]
    ours = sampler.sample(*rows)[:N_AUTHORS]
    error = float((ours - latents).abs().max() / latents.square().mean().sqrt())
    assert error < BOUND
    benchmark.pedantic(sampler.sample, args=rows, rounds=3)
    rate = count / benchmark.stats["min"]
    benchmark.extra_info.update(
        images=count,
        steps=STEPS,
        threads=torch.get_num_threads(),
        relative_error=error,
        images_per_s=round(rate, 2),
        authors_images_per_s=round(authors_rate, 2),
        speedup=round(rate / authors_rate, 2),
    )
