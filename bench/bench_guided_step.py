"""One guided step: fused kernel, eager reference, torch.compile, and the usual separate operations.

    pytest bench/bench_guided_step.py --benchmark-only

Shape letters: B images, C channels, H W latent size.

`separate` is the step as samplers commonly write it: on the doubled batch, each coefficient looked up and
broadcast, one statement per formula, noise from torch's generator for 2B rows, then a new network input. All
providers must agree on given noise before any is timed. Compiling and warming up are not timed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from checking import Setting, median_seconds
from step_arguments import make_step, step_bytes
from torch import Tensor

from mgd3_kernels import Coefficient, guided_step, guided_step_reference

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# max |difference| from the reference over max |reference|: 0 on a CPU, where both are eager.
BOUND = 2e-6


@dataclass(frozen=True)
class Case:
    """Images of a batch, their latents, and the network's dtype."""

    shape: tuple[int, int, int, int]
    dtype: str
    rounds: int
    calls: int  # in each round


GPU_CASES = {f"{B}x4x32x32-bf16": Case((B, 4, 32, 32), "bf16", 20, 100) for B in (1, 8, 64, 256)}
CPU_CASES = {
    "64x4x8x8-fp32": Case((64, 4, 8, 8), "fp32", 20, 1),
    "8x4x32x32-fp32": Case((8, 4, 32, 32), "fp32", 20, 1),
}
CASES = GPU_CASES if ON_GPU else CPU_CASES
# On a CPU `fused` is the eager reference itself.
PROVIDERS = ["fused", "eager", "eager-given-noise", "compiled", "separate"]
if not ON_GPU:
    PROVIDERS = ["eager", "eager-given-noise", "separate"]


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


def copy_seconds(traffic: int) -> float:
    """Median time to copy as many bytes as the step moves."""
    source = torch.zeros(traffic // 2, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return median_seconds(Setting(torch.device(DEVICE)), lambda: target.copy_(source), repeats=50)


def given_noise_difference(provider: Callable[..., Tensor], case: Case) -> float:
    step = make_step(DEVICE, case.shape, case.dtype, noise="given")
    want = step.run(guided_step_reference)
    return float((step.run(provider) - want).abs().max() / want.abs().max())


@pytest.fixture(params=CASES)
def case_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", PROVIDERS)
@torch.no_grad()
def test_guided_step(benchmark: Any, case_name: str, name: str) -> None:
    case = CASES[case_name]
    provider = make_provider(name)
    difference = given_noise_difference(provider, case)
    assert difference <= BOUND

    noise = "given" if name == "eager-given-noise" else "counter"
    step = make_step(DEVICE, case.shape, case.dtype, noise=noise)

    def run() -> None:
        for _ in range(case.calls):
            provider(step.x, step.out, step.table, step.step, **step.options)
        if ON_GPU:
            torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=case.rounds, warmup_rounds=2)
    if benchmark.stats is None:
        return
    p20, median, p80 = np.quantile(benchmark.stats.stats.data, [0.2, 0.5, 0.8]) / case.calls
    traffic = step_bytes(step)
    benchmark.extra_info.update(
        op="guided_step",
        case=case_name,
        provider=name,
        dtype=case.dtype,
        relative_difference=difference,
        p20_ms=p20 * 1e3,
        median_ms=median * 1e3,
        p80_ms=p80 * 1e3,
        bytes=traffic,
        gb_per_s=traffic / median * 1e-9,
        share_of_copy=copy_seconds(traffic) / median,
        images_per_s=case.shape[0] / median,
        device=torch.cuda.get_device_name() if ON_GPU else platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
