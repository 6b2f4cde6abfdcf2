"""What every benchmark is made of: rounds timed side by side, flat figures, and the roofs they are held to.

A figure is one number with its op, provider, size and unit; where it comes from rounds it has their 20th,
50th and 80th percentile. Rivals and roofs are timed between the rounds of the benchmarked function, so that a
ratio compares the same minutes. `BENCH_SIZE=full` takes the sizes of committed results; a GPU its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
SIZE = "full" if ON_GPU else os.environ.get("BENCH_SIZE", "smoke")
FULL = SIZE == "full"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
QUANTILES = {"p20": 0.2, "p50": 0.5, "p80": 0.8}
OURS = "ours"

Seconds = Mapping[str, Sequence[float]]


def sized(smoke: Any, full: Any, gpu: Any = None) -> Any:
    """Choose by device and `BENCH_SIZE`."""
    if ON_GPU and gpu is not None:
        return gpu
    return full if FULL else smoke


@dataclass(frozen=True)
class Subject:
    """What was measured: the part that all figures of a benchmark share."""

    op: str
    size: str
    dtype: str
    batch: int


class Figures:
    """Collects the figures of one benchmark in its extra information, as `records`."""

    def __init__(self, benchmark: BenchmarkFixture, subject: Subject) -> None:
        self._subject = subject
        self._records: list[dict[str, Any]] = benchmark.extra_info.setdefault("records", [])

    def add(
        self, provider: str, metric: str, unit: str, values: float | Sequence[float], dtype: str | None = None
    ) -> None:
        """Add one figure: a single value, or the values of the rounds, whose median it is then."""
        spread: dict[str, float | None] = dict.fromkeys(QUANTILES)
        if isinstance(values, Sequence):
            spread = {name: _rounded(np.quantile(values, q)) for name, q in QUANTILES.items()}
        value = spread["p50"] if isinstance(values, Sequence) else _rounded(values)
        self._records.append(
            {
                "op": self._subject.op,
                "provider": provider,
                "size": self._subject.size,
                "dtype": dtype or self._subject.dtype,
                "batch": self._subject.batch,
                "metric": metric,
                "value": value,
                "unit": unit,
                **spread,
            }
        )

    def add_time(self, provider: str, seconds: Sequence[float], dtype: str | None = None) -> None:
        """Add the milliseconds of one call."""
        self.add(provider, "time", "ms", [1e3 * s for s in seconds], dtype)

    def add_rate(
        self,
        provider: str,
        metric: str,
        unit: str,
        amount: float,
        seconds: Sequence[float],
        dtype: str | None = None,
    ) -> None:
        """Add what was done per second: `amount` in each call."""
        self.add(provider, metric, unit, [amount / s for s in seconds], dtype)

    def add_peak_memory(self, provider: str, function: Callable[[], object]) -> None:
        """Add the most memory that torch holds on the GPU during one more call; nothing on a CPU."""
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
            function()
            torch.cuda.synchronize()
            self.add(provider, "peak_memory", "GiB", torch.cuda.max_memory_allocated() / 2**30)


def time_rounds(
    benchmark: BenchmarkFixture,
    function: Callable[[], object],
    *,
    rounds: int,
    beside: Mapping[str, Callable[[], object]] | None = None,
    calls: int = 1,
    warm_up: bool = True,
) -> Seconds | None:
    """Time a function, and others before each of its rounds; in a smoke run once, without a warm-up.

    Args:
        benchmark: The fixture; it keeps the rounds of `function`.
        function: What is benchmarked.
        rounds: Rounds that count.
        beside: Rivals and roofs by name.
        calls: Calls of `function` in a round, for what is shorter than the clock is fine.
        warm_up: Run one more round of each beforehand that does not count.

    Returns:
        Seconds of one call in every round, by name and under `OURS`; None where timing is disabled.
    """
    if SIZE == "smoke":
        rounds, calls, warm_up = 1, 1, False
    seconds: dict[str, list[float]] = {name: [] for name in beside or {}}

    def time_beside() -> None:
        for name, rival in (beside or {}).items():
            seconds[name].append(seconds_of(rival))

    def run() -> None:
        for _ in range(calls):
            function()
        synchronise()

    benchmark.pedantic(run, setup=time_beside, rounds=rounds, warmup_rounds=int(warm_up))
    if benchmark.stats is None:
        return None
    own = [s / calls for s in benchmark.stats.stats.data]
    return {OURS: own, **{name: values[-rounds:] for name, values in seconds.items()}}


def seconds_of(function: Callable[[], object]) -> float:
    """Time one call to its end, the device's work included."""
    synchronise()
    started = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - started


def synchronise() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def ratios(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """How many times as fast, round by round."""
    return [a / b for a, b in zip(slower, faster, strict=True)]


def relative_rms(got: Tensor, want: Tensor) -> float:
    """Root mean square of the difference over that of `want`."""
    return float((got.float() - want.float()).norm() / want.float().norm())


def matmul_roof(dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """A square matrix product large enough to be bound by the matrix units, and its TFLOP."""
    n = 8192 if ON_GPU else 1024
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    return lambda: a @ b, 2 * n**3 * 1e-12


def copy_roof(traffic: int) -> Callable[[], Tensor]:
    """A copy that moves `traffic` bytes, half read and half written."""
    source = torch.zeros(traffic // 2, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _rounded(value: Any) -> float:
    """Six digits: more are noise, and files are read by people."""
    return float(f"{float(value):.6g}")
