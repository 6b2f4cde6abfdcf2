"""Decoding by the autoencoder: batch size, precision and memory layout, and what the product chooses.

    pytest bench/speed/bench_decode.py --benchmark-only

`contiguous` and `channels-last` are diffusers' `AutoencoderKL` as it is; `ours` is `KLAutoencoder` with its
network, batch and layout, at every batch. All convert to whole levels. `CHOICES` in
`mgd3_fast/generators/batched_autoencoder.py` follows from the figures of a device. Pixels are compared first.

Shape letters: B images, P resolution in pixels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import mgd3_fast.generators
from bench.measuring import DEVICE, DTYPES, ON_GPU, OURS, Figures, Subject, ratios, sized, time_rounds
from mgd3_engine.autoencoder import KL_F8
from mgd3_fast.generators import KLAutoencoder
from tests.fakes.random_networks import random_vae

DEMO = Path(mgd3_fast.generators.__file__).parent / "demo_mnist5k" / "vae"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
# Levels of 255 that two computations of a pixel may lie apart: rounding, and bfloat16's 8 bits.
LEVELS = {"fp32": 1, "bf16": 16}
# Name: resolution and batch sizes. The published decoder takes seconds an image on a CPU at 256 px.
CASES: dict[str, tuple[int, list[int]]] = {
    "demo VAE": (32, sized([1, 8], [1, 4, 32], [32, 256])),
    "KL-f8": (sized(64, 256), sized([1], [1, 2, 4], [1, 8, 16, 32, 64])),
}
ROUNDS = 10 if ON_GPU else 5


class Decoders:
    """One autoencoder as diffusers' network in every layout, and as ours."""

    def __init__(self, name: str, folder: Path) -> None:
        resolution, _ = CASES[name]
        if name != "demo VAE":
            settings = {key: value for key, value in KL_F8.settings().items() if not key.startswith("_")}
            random_vae(**settings).save_pretrained(folder)
        self._path = DEMO if name == "demo VAE" else folder
        self._network = AutoencoderKL.from_pretrained(self._path).eval().requires_grad_(False)
        self._ours = KLAutoencoder(self._path)
        self.side = resolution // self._ours.downsample

    def latents(self, B: int) -> Tensor:
        generator = torch.Generator().manual_seed(B)
        return torch.randn(B, 4, self.side, self.side, generator=generator).to(DEVICE)

    def decode(self, provider: str, dtype: str, latents: Tensor) -> Callable[[], Tensor]:
        """Latents to uint8 [B, 3, P, P]."""
        if provider == "ours":
            ours = self._ours.to(DEVICE, DTYPES[dtype])
            return lambda: ours.decode(latents)
        network: Any = nn.Module.to(deepcopy(self._network), DEVICE, DTYPES[dtype])
        network = nn.Module.to(network, memory_format=LAYOUTS[provider])
        scaled = (latents / self._ours.scaling_factor).to(DTYPES[dtype])
        scaled = scaled.contiguous(memory_format=LAYOUTS[provider])

        def run() -> Tensor:
            pixels: Tensor = network.decode(scaled).sample.float()
            return pixels.mul(0.5).add(0.5).clamp(0, 1).mul(255).add(0.5).to(torch.uint8)

        return run


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def decoders(name: str, tmp_path_factory: pytest.TempPathFactory) -> Decoders:
    return Decoders(name, tmp_path_factory.mktemp("vae"))


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_decode(benchmark: BenchmarkFixture, name: str, decoders: Decoders, dtype: str) -> None:
    """All batch sizes and layouts, timed in turn; pytest-benchmark's own row is the last of them."""
    resolution, batches = CASES[name]
    runs: dict[tuple[str, int], Callable[[], Tensor]] = {}
    for B in batches:
        latents = decoders.latents(B)
        want = decoders.decode("contiguous", "fp32", latents)().int()
        for provider in (*LAYOUTS, "ours"):
            runs[provider, B] = decoders.decode(provider, dtype, latents)
            apart = (runs[provider, B]().int() - want).abs()
            assert apart.max() <= LEVELS[dtype]
    last = list(runs)[-1]
    beside = {f"{provider} {B}": run for (provider, B), run in runs.items() if (provider, B) != last}
    seconds = time_rounds(benchmark, runs[last], rounds=ROUNDS, beside=beside)
    if seconds is None:
        return
    for provider, B in runs:
        figures = Figures(benchmark, Subject("decode", f"{name}, {resolution} px, {B} images", dtype, B))
        own = seconds[OURS if (provider, B) == last else f"{provider} {B}"]
        figures.add_rate(provider, "rate", "images/s", B, own)
        if provider != "contiguous":
            figures.add(provider, "speedup_over_contiguous", "1", ratios(seconds[f"contiguous {B}"], own))
        figures.add_peak_memory(provider, runs[provider, B])
