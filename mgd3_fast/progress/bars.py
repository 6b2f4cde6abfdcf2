"""The bar of a stage: counted units, their rate, and lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from typing import TextIO

SILENCE_S = 60.0
"""Seconds after which something is said, also where no unit was finished."""


class Bar:
    """One running stage; this one shows nothing."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more finished units."""

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished: they say nothing of the rate."""


class Pace:
    """Counts units and their rate, over whole batches alone: within one, units come in bursts."""

    def __init__(self, total: int | None, initial: int, batch: int, first_apart: bool) -> None:
        self.done, self._total, self._batch = initial, total, batch
        self._fresh = 0  # of `done`, what this stage did
        start = (0, time.monotonic())
        self._origin, self._last = None if first_apart else start, start

    def advance(self, n: int) -> None:
        """Count `n` more finished units."""
        whole = self._fresh // self._batch
        self._fresh += n
        self.done += n
        if self._fresh // self._batch > whole or self.done == self._total:
            self._last = (self._fresh, time.monotonic())
            self._origin = self._origin or self._last

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished."""
        self.done += n

    def rate(self) -> float:
        """Units a second; 0 while nobody knows."""
        (first, since), (last, until) = self._origin or self._last, self._last
        return (last - first) / (until - since) if until > since else 0.0


class WeighedPace(Pace):
    """The pace of units of different cost: its rate is that of the units that are left."""

    def __init__(self, costs: Sequence[float], initial: int) -> None:
        super().__init__(len(costs), initial, 1, False)
        self._spent = list(accumulate(costs, initial=0.0))  # by the first 0, 1, ... units
        self._skipped = self._spent[initial]

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished."""
        self._skipped += self._spent[self.done + n] - self._spent[self.done]
        super().skip(n)

    def rate(self) -> float:
        """Units a second, of those that are left."""
        spent, left = self._spent[self.done] - self._skipped, self._spent[-1] - self._spent[self.done]
        if not spent or not left:
            return super().rate()
        units = len(self._spent) - 1 - self.done
        return super().rate() / self._fresh * spent * units / left


class PlainBar(Bar):
    """Print a line at most every `period_s` seconds, and at the end; `still` says that work goes on."""

    def __init__(
        self, stage: str, total: int | None, unit: str, pace: Pace, stream: TextIO, period_s: float = 10.0
    ) -> None:
        self._stage, self._total, self._unit, self._stream = stage, total, unit, stream
        self._period_s, self._pace = period_s, pace
        self._printed = time.monotonic()
        self._last_line_at: int | None = None

    def advance(self, n: int = 1) -> None:
        """Count `n` more finished units."""
        self._pace.advance(n)
        if time.monotonic() - self._printed >= self._period_s:
            self._print_line()

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished."""
        self._pace.skip(n)

    def close(self) -> None:
        """Print the last line, if it was not printed."""
        if self._last_line_at != self._pace.done:
            self._print_line()

    def still(self) -> None:
        """Say, where no line came for a minute, that this is so; from any thread."""
        if time.monotonic() - self._printed >= SILENCE_S:
            self._print_line(", still at work")

    def _print_line(self, end: str = "") -> None:
        self._printed = time.monotonic()
        done, rate = self._pace.done, self._pace.rate()
        self._last_line_at = done
        line = f"{self._stage}: {done if self._total is None else f'{done}/{self._total}'} {self._unit}"
        if rate > 0:
            line += f", {rate:.4g} {self._unit}/s"
        if self._total is not None and rate > 0 and done < self._total:
            line += f", {duration((self._total - done) / rate)} left"
        print(line + end, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Say how long something takes, to two or three digits: 34 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
