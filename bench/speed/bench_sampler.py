"""The whole sampler against the authors' way and against diffusers' DiTPipeline, on the same weights.

    pytest bench/speed/bench_sampler.py --benchmark-only

The authors sample one image at a time from two rows in float32. DiTPipeline samples the same batch; it has no
mode guidance and drops the learned variance, so that pair runs without both. Latents are compared, on the
same noise, before anything is timed, and rivals are timed between our rounds. Networks have random weights
and 1,000 classes, as DiTPipeline's null class is always 1000; the ratios do not depend on the steps.

The best rival is DiTPipeline under torch.compile: timed on a GPU, on a CPU with BENCH_COMPILED_RIVAL=1.

Shape letters: B images of a batch, C channels, H W latent size, S steps.
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.measuring import (
    DEVICE,
    DTYPES,
    FULL,
    ON_GPU,
    OURS,
    Figures,
    Subject,
    ratios,
    relative_rms,
    seconds_of,
    sized,
    time_rounds,
)
from bench.speed.bench_dit import DEMO
from bench.speed.sampling_rivals import DiTPipelineLatents, sample_as_the_authors_do
from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, image_seeds
from mgd3_engine.dit import DiT, DiTConfig, dit_config, load_dit
from mgd3_kernels import philox_normal
from tests.fakes.random_networks import random_diffusers_dit

# Relative root mean square of the latents' difference, measured on these networks: 1e-6 and 0.01.
BOUNDS = {"fp32": 1e-4, "bf16": 0.05}
BACKENDS = sized(["eager"], ["eager", "compiled"], ["compiled"])
ROUNDS = 5 if ON_GPU else 7
# Compiling takes longer on a CPU than all rounds together.
COMPILED_RIVAL = ON_GPU or os.environ.get("BENCH_COMPILED_RIVAL") == "1"
AUTHORS_IMAGES = 2


@dataclass(frozen=True)
class Case:
    """A network, the images of a batch, and the steps."""

    config: DiTConfig
    batch: int
    steps: int


CASES = {
    "demo DiT": Case(replace(DEMO, num_classes=1000, frequency_shift=1), 64, sized(4, 25, 50)),
    "DiT-S/2": Case(replace(dit_config("DiT-S/2"), frequency_shift=1), sized(1, 8, 128), sized(2, 4, 50)),
}
if ON_GPU:
    CASES["DiT-XL/2"] = Case(replace(dit_config("DiT-XL/2"), frequency_shift=1), 128, 10)


class MeansOnly:
    """A DiT without its learned variance, which DiTPipeline drops too."""

    def __init__(self, network: DiT) -> None:
        self._network, self._channels = network, network.config.in_channels
        self.modulation = network.modulation

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        return self._network(x, timestep, class_ids)[:, : self._channels]

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self._network.denoise(x, modulation)[:, : self._channels]


class Networks:
    """Both networks of a case in every precision, and the images of a batch."""

    def __init__(self, case: Case, folder: Path) -> None:
        twin = random_diffusers_dit(case.config)
        twin.save_pretrained(folder)
        self.case, self._twin = case, twin
        self._ours = load_dit(folder, case.config)
        side, B = case.config.input_size, case.batch
        self.shape = (case.config.in_channels, side, side)
        generator = torch.Generator().manual_seed(1)
        self.modes = torch.randn(B, *self.shape, generator=generator)
        self.class_ids = torch.arange(B) * 7 % case.config.num_classes
        self.seeds = image_seeds(0, [(str(number), 0) for number in range(B)])

    def ours(self, dtype: str) -> DiT:
        return deepcopy(self._ours).to(DEVICE, DTYPES[dtype])

    def diffusers(self, dtype: str) -> Any:
        return nn.Module.to(deepcopy(self._twin), DEVICE, DTYPES[dtype])

    def sampler(self, denoiser: Any, dtype: str, backend: str, **options: Any) -> GuidedSampler:
        """Make ours: steps, CFG 4 and the case's batch, of the images' network."""
        config = self.case.config
        settings: dict[str, Any] = {"schedule": NoiseSchedule.linear(), "steps": self.case.steps}
        settings |= {"cfg_scale": 4.0, "null_class": config.null_class, "batch_size": self.case.batch}
        settings |= {"dtype": DTYPES[dtype], "device": DEVICE, "backend": backend}
        return GuidedSampler(denoiser, **(settings | options))


@pytest.fixture(scope="module", params=CASES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def networks(size: str, tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return Networks(CASES[size], tmp_path_factory.mktemp("dit"))


def subject(networks: Networks, op: str, size: str, dtype: str) -> Subject:
    case = networks.case
    return Subject(op, f"{size}, batch {case.batch}, {case.steps} steps", dtype, case.batch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_against_the_authors_way(
    benchmark: BenchmarkFixture, size: str, networks: Networks, backend: str, dtype: str
) -> None:
    """DDPM with learned variance and mode guidance on half of the steps."""
    case, exact = networks.case, networks.ours("fp32")
    guidance = ModeGuidance(scale=0.1, t_stop=(case.steps - 1) // 2)
    sampler = networks.sampler(networks.ours(dtype), dtype, backend, cfg_channels=3, guidance=guidance)
    count = min(AUTHORS_IMAGES, case.batch)
    # Drawn before the clock starts: their own generator costs next to nothing, ours does at batch 1.
    noise = [philox_normal(networks.seeds[:count], step, networks.shape) for step in range(case.steps + 1)]
    rows = list(
        zip(
            networks.class_ids[:count].to(DEVICE).split(1),
            networks.modes[:count].to(DEVICE).split(1),
            torch.stack(noise, dim=1).to(DEVICE),
            strict=True,
        )
    )

    def authors() -> Tensor:
        null_class = case.config.null_class
        return torch.cat([sample_as_the_authors_do(exact, c, null_class, m, z, guidance) for c, m, z in rows])

    images = (networks.class_ids, networks.modes, networks.seeds)
    error = relative_rms(sampler.sample(*images)[:count], authors().cpu())
    assert error <= BOUNDS[dtype]
    seconds = time_rounds(
        benchmark, lambda: sampler.sample(*images), rounds=ROUNDS, beside={"authors": authors}
    )
    if seconds is None:
        return
    figures, ours = Figures(benchmark, subject(networks, "sampler", size, dtype)), f"ours {backend}"
    figures.add_rate(ours, "rate", "images/s", case.batch, seconds[OURS])
    speedups = [slow * case.batch / count for slow in ratios(seconds["authors"], seconds[OURS])]
    figures.add(ours, "speedup_over_authors_fp32", "1", speedups)
    figures.add(ours, "relative_rms", "1", error)
    figures.add_peak_memory(ours, lambda: sampler.sample(*images))
    if backend == BACKENDS[0] and dtype == "fp32":
        figures.add_rate("authors", "rate", "images/s", count, seconds["authors"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_against_dit_pipeline(
    benchmark: BenchmarkFixture, size: str, networks: Networks, method: str, backend: str, dtype: str
) -> None:
    """CFG on all channels, no mode guidance; DDIM is what the published pipeline uses."""
    if method == "ddpm" and size != "demo DiT" and not FULL:
        pytest.skip("large networks sample with DDPM for BENCH_SIZE=full")
    case = networks.case
    sampler = networks.sampler(
        MeansOnly(networks.ours(dtype)), dtype, backend, method=method, spacing="ddim", guidance=None
    )
    rivals = {
        f"diffusers_{name}": DiTPipelineLatents(networks.diffusers(name), method, case.steps)
        for name in dict.fromkeys(["fp32", dtype])
    }
    compiled = f"diffusers_compiled_{dtype}"
    if COMPILED_RIVAL:
        rivals[compiled] = DiTPipelineLatents(networks.diffusers(dtype), method, case.steps, compiled=True)
    twin, class_ids = rivals[f"diffusers_{dtype}"], networks.class_ids.tolist()
    noise = twin.noise(case.batch, networks.shape)
    ours = sampler.sample(
        networks.class_ids,
        None,
        None,
        latent_shape=networks.shape,
        noise=lambda step, image: noise[step][image].float(),
    )
    error = relative_rms(ours, twin(class_ids).cpu())
    assert error <= BOUNDS[dtype]
    if COMPILED_RIVAL:
        compiling = seconds_of(lambda: rivals[compiled](class_ids))
        assert relative_rms(ours, rivals[compiled](class_ids).cpu()) <= BOUNDS[dtype]

    def sample() -> Tensor:
        return sampler.sample(networks.class_ids, None, networks.seeds, latent_shape=networks.shape)

    beside = {name: lambda rival=rival: rival(class_ids) for name, rival in rivals.items()}
    seconds = time_rounds(benchmark, sample, rounds=ROUNDS, beside=beside)
    if seconds is None:
        return
    provider = f"ours {backend}"
    figures = Figures(benchmark, subject(networks, f"sampler_{method}_unguided", size, dtype))
    figures.add_rate(provider, "rate", "images/s", case.batch, seconds[OURS])
    figures.add(provider, "relative_rms_to_diffusers", "1", error)
    for name in rivals:
        figures.add(provider, f"speedup_over_{name}", "1", ratios(seconds[name], seconds[OURS]))
    if backend == BACKENDS[0]:
        figures.add_rate("diffusers", "rate", "images/s", case.batch, seconds[f"diffusers_{dtype}"])
        if COMPILED_RIVAL:
            figures.add_rate("diffusers compiled", "rate", "images/s", case.batch, seconds[compiled])
            figures.add("diffusers compiled", "first_call", "s", compiling)
