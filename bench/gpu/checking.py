"""What every check of the GPU is made of: where it runs, how it fails, how it times.

A check is a function of a `Setting` that returns its figures and raises `CheckFailedError` with them when
they are out of bounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class CheckFailedError(Exception):
    """A figure out of bounds; carries all figures of the check."""

    def __init__(self, reason: str, figures: dict[str, Any]) -> None:
        super().__init__(reason)
        self.figures = figures


@dataclass(frozen=True)
class Setting:
    """Where the checks run: a CUDA device, or the CPU with Triton's interpreter on small sizes."""

    device: torch.device

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def size(self, on_gpu: int, interpreted: int) -> int:
        return on_gpu if self.on_gpu else interpreted


Check = Callable[[Setting], dict[str, Any]]


def plain_on_cpu(check: Check) -> Check:
    """Rehearse a check of whole networks in plain torch: interpreted, their norms take minutes."""

    @wraps(check)
    def checked(setting: Setting) -> dict[str, Any]:
        if setting.on_gpu:
            return check(setting)
        interpreted = os.environ.pop("TRITON_INTERPRET", None)
        try:
            return check(setting)
        finally:
            if interpreted is not None:
                os.environ["TRITON_INTERPRET"] = interpreted

    return checked


def needs_packages(check: Check) -> Check:
    """Skip the check where a package that it imports is missing or cannot be loaded."""

    @wraps(check)
    def checked(setting: Setting) -> dict[str, Any]:
        try:
            return check(setting)
        except ImportError as error:
            if (error.name or "").startswith("mgd3"):
                raise
            return {"skipped": f"a package is missing here: {error}"}

    return checked


def require(holds: bool, reason: str, figures: dict[str, Any]) -> dict[str, Any]:
    if not holds:
        raise CheckFailedError(reason, figures)
    return figures


def relative_rms(got: Tensor, want: Tensor) -> float:
    """Root mean square of the difference over that of `want`, float32 or wider."""
    return float((got.to(want.dtype) - want).norm() / want.norm())


def make_replay(setting: Setting, function: Callable[[], object]) -> Callable[[], object]:
    """The function captured in a CUDA graph after a warm-up; on the CPU the function itself."""
    if not setting.on_gpu:
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def median_seconds(setting: Setting, function: Callable[[], object], repeats: int) -> float:
    """Median time of one call among `repeats`, by device events on a GPU."""
    seconds = []
    for _ in range(repeats):
        if setting.on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) * 1e-3)
        else:
            started = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
