"""Forward pass of DiT by backend and precision, and diffusers' network on the same weights.

    pytest bench/speed/bench_dit.py --benchmark-only

Every backend of the engine takes part; one that cannot run here is skipped with its reason. The outputs must
agree with our float32 before anything is timed. Rates are of matrix products alone, and so is the roof: a
large product of the same precision, timed between the rounds.

Shape letters: R rows of the input, twice the images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.measuring import (
    DEVICE,
    DTYPES,
    FULL,
    ON_GPU,
    OURS,
    Figures,
    Subject,
    matmul_roof,
    ratios,
    relative_rms,
    seconds_of,
    sized,
    time_rounds,
)
from mgd3_engine import backend_names
from mgd3_engine.backends import BackendRequest, create_backend
from mgd3_engine.dit import DiT, DiTConfig, dit_config, load_dit
from tests.fakes.random_networks import random_diffusers_dit

# Relative root mean square of the difference from ours in float32: measured 6e-7 and 1e-2 on a CPU.
BOUNDS = {"fp32": 1e-5, "bf16": 0.03}
PRECISIONS = dict(DTYPES)
if ON_GPU:
    PRECISIONS["fp16"], BOUNDS["fp16"] = torch.float16, 0.01
DEMO = DiTConfig(input_size=8, patch_size=2, hidden_size=160, depth=4, num_heads=5, num_classes=10)


@dataclass(frozen=True)
class Case:
    """A network and the rows of its input."""

    config: DiTConfig
    rows: int


CASES = {
    "demo DiT": Case(replace(DEMO, frequency_shift=1), rows=128),
    "DiT-S/2": Case(replace(dit_config("DiT-S/2"), frequency_shift=1), rows=sized(2, 16, 512)),
}
if ON_GPU:
    CASES["DiT-XL/2"] = Case(replace(dit_config("DiT-XL/2"), frequency_shift=1), rows=256)
PROVIDERS = [*backend_names(), "diffusers"]


class Networks:
    """Both networks of a case in float32, and one input."""

    def __init__(self, case: Case, folder: Path) -> None:
        twin = random_diffusers_dit(case.config)
        twin.save_pretrained(folder)
        self.ours, self.diffusers = load_dit(folder, case.config).to(DEVICE), twin.to(DEVICE)
        side, channels = case.config.input_size, case.config.in_channels
        x = torch.randn(case.rows, channels, side, side, generator=torch.Generator().manual_seed(1))
        self.x = x.to(DEVICE)
        self.timestep = torch.linspace(999, 0, case.rows).to(torch.int64).to(DEVICE)
        self.class_ids = torch.arange(case.rows, device=DEVICE) % case.config.num_labels

    def forward(self, provider: str, dtype: str) -> Callable[[], Tensor]:
        """The forward pass; skips what cannot run here, or takes too long to build for a smoke run."""
        if provider not in ("eager", "diffusers") and not FULL:
            pytest.skip(f"{provider} is only built for BENCH_SIZE=full")
        x = self.x.to(PRECISIONS[dtype])
        if provider == "diffusers":
            twin = nn.Module.to(deepcopy(self.diffusers), PRECISIONS[dtype])
            return lambda: twin(x, self.timestep, self.class_ids, return_dict=False)[0]
        network = deepcopy(self.ours).to(PRECISIONS[dtype])
        request = BackendRequest(denoiser=network, device=DEVICE, dtype=PRECISIONS[dtype], rows=len(x))
        try:
            _, denoiser = create_backend(provider, request)
        except (ValueError, ImportError) as error:
            pytest.skip(f"{provider} in {dtype}: {error}")
        return lambda: denoiser(x, self.timestep, self.class_ids)


def tflop(case: Case) -> float:
    """Work of the matrix products of one forward pass, counted on the meta device."""
    with torch.device("meta"):
        x = torch.empty(case.rows, case.config.in_channels, case.config.input_size, case.config.input_size)
        ids = torch.empty(case.rows, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            DiT(case.config)(x, ids, ids)
    return float(counter.get_total_flops() / 1e12)


@pytest.fixture(scope="module", params=CASES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def networks(size: str, tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return Networks(CASES[size], tmp_path_factory.mktemp("dit"))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("provider", PROVIDERS)
@torch.no_grad()
def test_dit_forward(
    benchmark: BenchmarkFixture, size: str, networks: Networks, provider: str, dtype: str
) -> None:
    case = CASES[size]
    want = networks.ours(networks.x, networks.timestep, networks.class_ids)
    built: list[Callable[[], Tensor]] = []
    build_s = seconds_of(lambda: built.append(networks.forward(provider, dtype)))
    forward = built[0]
    build_s += seconds_of(forward)
    difference = relative_rms(forward(), want)
    assert difference <= BOUNDS[dtype]

    roof, roof_tflop = matmul_roof(PRECISIONS[dtype])
    seconds = time_rounds(benchmark, forward, rounds=20 if ON_GPU else 9, beside={"matmul": roof})
    if seconds is None:
        return
    figures = Figures(benchmark, Subject("dit_forward", f"{size}, {case.rows} rows", dtype, case.rows))
    figures.add_time(provider, seconds[OURS])
    figures.add_rate(provider, "rate", "TFLOP/s", tflop(case), seconds[OURS])
    figures.add_rate(provider, "matmul_rate", "TFLOP/s", roof_tflop, seconds["matmul"])
    share = [slow * tflop(case) / roof_tflop for slow in ratios(seconds["matmul"], seconds[OURS])]
    figures.add(provider, "share_of_matmul", "1", share)
    figures.add(provider, "relative_rms", "1", difference)
    figures.add_peak_memory(provider, forward)
    if provider not in ("eager", "diffusers"):
        figures.add(provider, "build_time", "s", build_s)
