"""Progress bars with rate and time left on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, TextIO

from tqdm import tqdm

from mgd3_fast.errors import printable, shortened


class Bar:
    """One running stage; this one shows nothing."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more finished units."""

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished: they say nothing of the rate."""


class _Pace:
    """Counts units and their rate, over whole batches alone: within one, units come in bursts."""

    def __init__(self, total: int | None, initial: int, batch: int, first_apart: bool) -> None:
        self.done, self._total, self._batch = initial, total, batch
        self._fresh = 0  # of `done`, what this stage did
        start = (0, time.monotonic())
        self._origin, self._last = None if first_apart else start, start

    def advance(self, n: int) -> None:
        whole = self._fresh // self._batch
        self._fresh += n
        self.done += n
        if self._fresh // self._batch > whole or self.done == self._total:
            self._last = (self._fresh, time.monotonic())
            self._origin = self._origin or self._last

    def skip(self, n: int) -> None:
        self.done += n

    def rate(self) -> float:
        """Units a second; 0 while nobody knows."""
        (first, since), (last, until) = self._origin or self._last, self._last
        return (last - first) / (until - since) if until > since else 0.0


class _WeighedPace(_Pace):
    """The pace of units of different cost: its rate is that of the units that are left."""

    def __init__(self, costs: Sequence[float], initial: int) -> None:
        super().__init__(len(costs), initial, 1, False)
        self._spent = list(accumulate(costs, initial=0.0))  # by the first 0, 1, ... units
        self._skipped = self._spent[initial]

    def skip(self, n: int) -> None:
        self._skipped += self._spent[self.done + n] - self._spent[self.done]
        super().skip(n)

    def rate(self) -> float:
        spent, left = self._spent[self.done] - self._skipped, self._spent[-1] - self._spent[self.done]
        if not spent or not left:
            return super().rate()
        units = len(self._spent) - 1 - self.done
        return super().rate() / self._fresh * spent * units / left


class _PacedTqdm(tqdm):  # type: ignore[type-arg]
    """A bar whose rate, and so the time left, is its pace's where it has one."""

    pace: _Pace | None = None

    @property
    def format_dict(self) -> Any:
        """What tqdm shows, by name."""
        shown = super().format_dict
        return shown if self.pace is None else {**shown, "rate": self.pace.rate()}


class _TerminalBar(Bar):
    def __init__(self, bar: _PacedTqdm, pace: _Pace | None) -> None:
        self._bar = bar
        bar.pace = pace

    def advance(self, n: int = 1) -> None:
        if self._bar.pace is not None:
            self._bar.pace.advance(n)
        self._bar.update(n)

    def skip(self, n: int) -> None:
        self._bar.initial += n
        self._bar.last_print_n += n
        self._bar.n += n
        if self._bar.pace is not None:
            self._bar.pace.skip(n)
        self._bar.refresh()


class _PlainBar(Bar):
    """Print a line at most every `period_s` seconds, and at the end."""

    def __init__(
        self, stage: str, total: int | None, unit: str, pace: _Pace, stream: TextIO, period_s: float = 10.0
    ) -> None:
        self._stage, self._total, self._unit, self._stream = stage, total, unit, stream
        self._period_s, self._pace = period_s, pace
        self._printed = time.monotonic()
        self._last_line_at: int | None = None

    def advance(self, n: int = 1) -> None:
        self._pace.advance(n)
        if time.monotonic() - self._printed >= self._period_s:
            self._print_line()

    def skip(self, n: int) -> None:
        self._pace.skip(n)

    def close(self) -> None:
        if self._last_line_at != self._pace.done:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        done, rate = self._pace.done, self._pace.rate()
        self._last_line_at = done
        line = f"{self._stage}: {done if self._total is None else f'{done}/{self._total}'} {self._unit}"
        if rate > 0:
            line += f", {rate:.4g} {self._unit}/s"
        if self._total is not None and rate > 0 and done < self._total:
            line += f", {duration((self._total - done) / rate)} left"
        print(line, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Say how long something takes, to two or three digits: 34 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Reports the stages of a run on a text stream.

    Args:
        quiet: Print nothing at all.
        stream: Where to print; standard error by default, so that results on standard output stay clean.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream if stream is not None else sys.stderr

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        total: int | None,
        unit: str,
        initial: int = 0,
        batch: int = 1,
        first_apart: bool = False,
        costs: Sequence[float] | None = None,
    ) -> Iterator[Bar]:
        """Open the bar of one stage.

        Args:
            name: Word shown before the bar, such as "encode".
            total: Units the whole stage has; None where nobody knows before the end.
            unit: What is counted, such as "img" or "class".
            initial: Units that an earlier run already finished.
            batch: Units that are worked on together; only whole batches say how fast it goes.
            first_apart: The first batch says nothing of the rate: it compiles or captures for the others.
            costs: What each unit takes beside the others, in their order, where they differ: the rate that is
                shown, and the time left, are then those of the units that are left.

        Yields:
            A bar whose `advance` counts finished units.
        """
        if self.quiet:
            yield Bar()
            return
        pace = _WeighedPace(costs, initial) if costs else _Pace(total, initial, batch, first_apart)
        if self.stream.isatty():
            paced = batch > 1 or first_apart or costs  # else tqdm's own, which follows a rate that changes
            with _PacedTqdm(desc=name, total=total, unit=unit, initial=initial, file=self.stream) as bar:
                yield _TerminalBar(bar, pace if paced else None)
        else:
            plain = _PlainBar(name, total, unit, pace, self.stream)
            yield plain
            plain.close()

    @contextmanager
    def activity(self, name: str, *, after_s: float = 1.0) -> Iterator[None]:
        """Say what a block does that counts no units, and what it took, unless it is over in a moment.

        Args:
            name: Such as "loading dit-xl-2-256".
            after_s: Seconds that need no explanation.

        Yields:
            Nothing.
        """
        if self.quiet:
            yield
            return
        started = time.monotonic()
        timer = threading.Timer(after_s, self.note, [f"{name} ..."])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # its line, where it is being written, comes before ours
        seconds = time.monotonic() - started
        if seconds >= after_s:
            self.note(f"{name}: {duration(seconds)}")

    def note(self, line: str) -> None:
        """Print a line of information or warning, or several; of what is too long the middle is left out."""
        if not self.quiet:
            lines = [shortened(printable(one)) for one in line.split("\n")]
            tqdm.write("\n".join(lines), file=self.stream)


SILENT = Progress(quiet=True)
