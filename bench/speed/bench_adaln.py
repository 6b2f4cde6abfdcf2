"""Gated residual and adaLN between two branches of a block: kernel, eager reference, torch.compile.

    pytest bench/speed/bench_adaln.py --benchmark-only

Shape letters: N rows of a batch, T tokens of a row, d hidden size.

All providers must agree before any is timed. Compiling is timed apart. On a CPU there is no kernel: `eager`
is what runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.gpu.adaln_arguments import make_adaln
from bench.gpu.kernel_checks import count_launches
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
from mgd3_kernels import gated_residual_norm, gated_residual_norm_reference

# max |difference| from the reference over max |reference|: the reference rounds three times to bfloat16.
BOUND = {"fp32": 1e-6, "bf16": 2e-2}
SIZES = {
    "DiT-XL/2, 256 rows": ((256, 256, 1152), "bf16"),
    "DiT-XL/2, 2 rows": ((2, 256, 1152), "bf16"),
    "DiT-S/2, 256 rows": ((256, 256, 384), "bf16"),
}
CPU_SIZES = {
    "DiT-S/2, 16 rows": ((16, 256, 384), "fp32"),
    "demo DiT, 128 rows": ((128, 16, 160), "fp32"),
}
CASES = SIZES if ON_GPU else CPU_SIZES
PROVIDERS = ["kernel", "eager", "compiled"] if ON_GPU else ["eager", *(["compiled"] if FULL else [])]


def make_provider(name: str) -> Callable[..., Tensor]:
    if name == "compiled":
        return torch.compile(gated_residual_norm_reference, dynamic=False)
    return gated_residual_norm if name == "kernel" else gated_residual_norm_reference


def difference(provider: Callable[..., Tensor], shape: tuple[int, int, int], dtype: str) -> float:
    want = make_adaln(DEVICE, shape, dtype).residual(gated_residual_norm_reference)
    got = make_adaln(DEVICE, shape, dtype).residual(provider)
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("size", CASES)
@pytest.mark.parametrize("name", PROVIDERS)
@torch.no_grad()
def test_gated_residual_norm(benchmark: BenchmarkFixture, size: str, name: str) -> None:
    (shape, dtype), provider = CASES[size], make_provider(name)
    first_call_s = seconds_of(lambda: difference(provider, shape, dtype))
    found = difference(provider, shape, dtype)
    assert found <= BOUND[dtype]

    adaln = make_adaln(DEVICE, shape, dtype)
    traffic = adaln.residual_bytes()

    def run() -> Tensor:
        return adaln.residual(provider)

    seconds = time_rounds(benchmark, run, rounds=20, beside={"copy": copy_roof(traffic)}, calls=10)
    if seconds is None:
        return
    figures = Figures(benchmark, Subject("gated_residual_norm", size, dtype, shape[0]))
    figures.add_time(name, seconds[OURS])
    figures.add_rate(name, "bandwidth", "GB/s", traffic * 1e-9, seconds[OURS])
    figures.add(name, "share_of_copy", "1", ratios(seconds["copy"], seconds[OURS]))
    figures.add(name, "relative_difference", "1", found)
    figures.add_peak_memory(name, run)
    if name == "compiled":
        figures.add(name, "compile_time", "s", first_call_s)
    if ON_GPU:
        figures.add(name, "launches", "launches", count_launches(run))
