"""One guided step: fused kernel, eager reference, torch.compile, and the usual separate operations.

    pytest bench/speed/bench_guided_step.py --benchmark-only

Shape letters: B images, C channels, H W latent size.

`separate` is the step as samplers commonly write it: on the doubled batch, each coefficient looked up and
broadcast, one statement per formula, noise from torch's generator for 2B rows, then a new network input. All
providers must agree on given noise before any is timed. Compiling is timed apart. On a CPU there is no
kernel: `eager` is what runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.gpu.kernel_checks import count_launches
from bench.gpu.step_arguments import make_step, step_bytes
from bench.measuring import (
    DEVICE,
    FULL,
    ON_GPU,
    OURS,
    Figures,
    Subject,
    copy_roof,
    ratios,
    seconds_of,
    time_rounds,
)
from mgd3_kernels import Coefficient, guided_step, guided_step_reference

# max |difference| from the reference over max |reference|: 0 on a CPU, where both are eager.
BOUND = 2e-6


@dataclass(frozen=True)
class Case:
    """Images of a batch, their latents, and the network's dtype."""

    shape: tuple[int, int, int, int]
    dtype: str
    calls: int  # in each round


GPU_CASES = {f"{B} x 4x32x32": Case((B, 4, 32, 32), "bf16", 100) for B in (1, 8, 64, 256)}
CPU_CASES = {
    "64 x 4x8x8": Case((64, 4, 8, 8), "fp32", 1),
    "8 x 4x32x32": Case((8, 4, 32, 32), "fp32", 1),
}
CASES = GPU_CASES if ON_GPU else CPU_CASES
PROVIDERS = ["eager", "eager-given-noise", "separate"]
if FULL:
    PROVIDERS.append("compiled")  # on a CPU it compiles for ten seconds
if ON_GPU:
    PROVIDERS.insert(0, "fused")


def separate_operations(
    x: Tensor,
    out: Tensor,
    table: Tensor,
    step: Tensor,
    *,
    cfg_scale: float,
    cfg_channels: int,
    modes: Tensor,
    net_input: Tensor,
    noise: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """The step on 2B rows, of which B are kept, as samplers commonly write it."""
    B, C = x.shape[:2]

    def coefficient(column: Coefficient) -> Tensor:
        return table[step, column].float().reshape(1, 1, 1, 1).expand(2 * B, C, *x.shape[2:])

    doubled = torch.cat([x, x])
    prediction, variance = torch.split(out.float(), C, dim=1)
    guided, rest = prediction[:, :cfg_channels], prediction[:, cfg_channels:]
    cond, null = torch.split(guided, B)
    half = null + cfg_scale * (cond - null)
    prediction = torch.cat([torch.cat([half, half]), rest], dim=1)
    fraction = (variance + 1) / 2
    low, high = coefficient(Coefficient.LOG_VAR_MIN), coefficient(Coefficient.LOG_VAR_MAX)
    sigma = torch.exp(0.5 * (fraction * high + (1 - fraction) * low))
    x0 = coefficient(Coefficient.X0_FROM_X) * doubled + coefficient(Coefficient.X0_FROM_OUT) * prediction
    gap = torch.cat([modes, modes]) - x0
    shifted = x0 + coefficient(Coefficient.X0_SHIFT) * gap
    mean = coefficient(Coefficient.NEXT_FROM_X0) * shifted + coefficient(Coefficient.NEXT_FROM_X) * doubled
    mean = mean + coefficient(Coefficient.PUSH) * sigma * gap
    z = torch.randn_like(doubled) if noise is None else torch.cat([noise, noise])
    std = coefficient(Coefficient.NOISE_SIGMA) * sigma + coefficient(Coefficient.NOISE_STD)
    x.copy_((mean + std * z)[:B])
    net_input.copy_(torch.cat([x, x]).to(net_input.dtype))
    return x


def make_provider(name: str) -> Callable[..., Tensor]:
    if name == "compiled":
        return torch.compile(guided_step_reference, dynamic=False)
    if name == "separate":
        return separate_operations
    return guided_step if name == "fused" else guided_step_reference


def given_noise_difference(provider: Callable[..., Tensor], case: Case) -> float:
    step = make_step(DEVICE, case.shape, case.dtype, noise="given")
    want = step.run(guided_step_reference)
    return float((step.run(provider) - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("size", CASES)
@pytest.mark.parametrize("name", PROVIDERS)
@torch.no_grad()
def test_guided_step(benchmark: BenchmarkFixture, size: str, name: str) -> None:
    case, provider = CASES[size], make_provider(name)
    first_call_s = seconds_of(lambda: given_noise_difference(provider, case))
    difference = given_noise_difference(provider, case)
    assert difference <= BOUND

    noise = "given" if name == "eager-given-noise" else "counter"
    step = make_step(DEVICE, case.shape, case.dtype, noise=noise)

    def run() -> Tensor:
        return provider(step.x, step.out, step.table, step.step, **step.options)

    roof = copy_roof(step_bytes(step))
    seconds = time_rounds(benchmark, run, rounds=20, beside={"copy": roof}, calls=case.calls)
    if seconds is None:
        return
    figures = Figures(benchmark, Subject("guided_step", size, case.dtype, case.shape[0]))
    figures.add_time(name, seconds[OURS])
    figures.add_rate(name, "bandwidth", "GB/s", step_bytes(step) * 1e-9, seconds[OURS])
    figures.add(name, "share_of_copy", "1", ratios(seconds["copy"], seconds[OURS]))
    figures.add(name, "relative_difference", "1", difference)
    figures.add_peak_memory(name, run)
    if name == "compiled":
        figures.add(name, "compile_time", "s", first_call_s)
    if ON_GPU:
        figures.add(name, "launches", "launches", count_launches(run))
