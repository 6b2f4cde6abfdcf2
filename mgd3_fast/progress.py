"""Progress bars with rate and time left on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from tqdm import tqdm


class Bar(Protocol):
    """One running stage."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more finished units."""
        ...

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished: they say nothing of the rate."""
        ...


class _TerminalBar:
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def advance(self, n: int = 1) -> None:
        self._bar.update(n)

    def skip(self, n: int) -> None:
        self._bar.initial += n
        self._bar.last_print_n += n
        self._bar.n += n
        self._bar.refresh()


class _PlainBar:
    """Print a line at most every `period_s` seconds, and at the end."""

    def __init__(
        self, stage: str, total: int | None, unit: str, initial: int, stream: TextIO, period_s: float = 10.0
    ) -> None:
        self._stage, self._total, self._unit, self._stream = stage, total, unit, stream
        self._period_s = period_s
        self._started = self._printed = time.monotonic()
        self._initial = self._done = initial
        self._last_line_at: int | None = None

    def advance(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._printed >= self._period_s:
            self._print_line()

    def skip(self, n: int) -> None:
        self._initial += n
        self._done += n

    def close(self) -> None:
        if self._last_line_at != self._done:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        self._last_line_at = self._done
        elapsed_s = self._printed - self._started
        rate = (self._done - self._initial) / elapsed_s if elapsed_s > 0 else 0.0
        done = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        line = f"{self._stage}: {done} {self._unit}"
        if rate > 0:
            line += f", {rate:.4g} {self._unit}/s"
        if self._total is not None and rate > 0 and self._done < self._total:
            line += f", {_duration((self._total - self._done) / rate)} left"
        print(line, file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    """Say how long something takes, to two or three digits."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class _SilentBar:
    def advance(self, n: int = 1) -> None:
        pass

    def skip(self, n: int) -> None:
        pass


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
    def stage(self, name: str, *, total: int | None, unit: str, initial: int = 0) -> Iterator[Bar]:
        """Open the bar of one stage.

        Args:
            name: Word shown before the bar, such as "encode".
            total: Units the whole stage has; None where nobody knows before the end.
            unit: What is counted, such as "img" or "class".
            initial: Units that an earlier run already finished.

        Yields:
            A bar whose `advance` counts finished units.
        """
        if self.quiet:
            yield _SilentBar()
        elif self.stream.isatty():
            with tqdm(desc=name, total=total, unit=unit, initial=initial, file=self.stream) as bar:
                yield _TerminalBar(bar)
        else:
            plain = _PlainBar(name, total, unit, initial, self.stream)
            yield plain
            plain.close()

    def note(self, line: str) -> None:
        """Print one line of information or warning."""
        if not self.quiet:
            tqdm.write(line, file=self.stream)


SILENT = Progress(quiet=True)
