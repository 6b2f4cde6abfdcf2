"""Phases as CUDA graphs: run once as they are, captured, and from then on replayed in one launch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

GRAPHS = ("auto", "on", "off")


class CaptureError(Exception):
    """A function ran, but what it launches cannot be captured."""


class CapturedPhase(Protocol):
    """Launches everything that was captured, on the contents that its tensors have now."""

    def replay(self) -> None:
        """Launch it."""
        ...


class Recorder(Protocol):
    """Runs and captures functions that take nothing and leave their results in tensors that stay."""

    def warm_up(self, function: Callable[[], None]) -> None:
        """Run a function the way that capture will need it to have run: compiled, libraries loaded."""
        ...

    def capture(self, function: Callable[[], None]) -> CapturedPhase:
        """Record what a function launches, without running it.

        Raises:
            RuntimeError: The function does what cannot be captured, such as to wait for the device.
        """
        ...


class CudaRecorder:
    """CUDA graphs on a stream of their own, all in one memory pool: they never run at the same time.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def warm_up(self, function: Callable[[], None]) -> None:
        """Run the function on the stream that will be captured."""
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            function()
        caller.wait_stream(self._stream)

    def capture(self, function: Callable[[], None]) -> CapturedPhase:
        """Record a CUDA graph; other threads may use the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            function()
        self._pool = graph.pool()
        return graph


class PhaseGraphs:
    """The captured phases of one set of static tensors."""

    def __init__(self) -> None:
        self._captured: dict[Hashable, CapturedPhase] = {}

    def run(self, phase: Hashable, function: Callable[[], None], recorder: Recorder) -> None:
        """Replay a phase; the first time, run it and capture it.

        Args:
            phase: Which; the same function and the same tensors each time.
            function: What the phase launches.
            recorder: Captures it.

        Raises:
            CaptureError: The function ran, its results are there, but it cannot be captured.
        """
        if phase in self._captured:
            self._captured[phase].replay()
            return
        recorder.warm_up(function)
        try:
            self._captured[phase] = recorder.capture(function)
        except RuntimeError as error:
            raise CaptureError(str(error)) from error

    def clear(self) -> None:
        """Drop every graph: a tensor that they read has moved."""
        self._captured.clear()


def why_not(device: torch.device, has_terms: bool) -> str:
    """Say why a sampler's phases cannot be CUDA graphs, or return an empty string.

    Args:
        device: Where the network runs.
        has_terms: Further guidance terms run Python at every step.

    Returns:
        The reason.
    """
    if device.type != "cuda":
        return f"the device is {device.type}"
    return "guidance terms run at every step" if has_terms else ""
