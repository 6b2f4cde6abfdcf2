"""Seconds spent per stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """Adds up wall time by stage name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a `with` block to a stage, also when the block raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def rounded(self) -> dict[str, float]:
        """Return seconds by stage, to the millisecond, and the total since the start."""
        stages = {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
        return {**stages, "total": round(time.perf_counter() - self._started, 3)}
