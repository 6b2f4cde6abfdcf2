"""What a worker tells on the way: its notes and bars, shown by another process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from mgd3_fast.progress import Bar, Progress


class Told(NamedTuple):
    """A note, or that a bar opens, advances or closes.

    Args:
        what: "note", "open", "advance", "skip" or "close".
        name: The note, or the name of the bar.
        value: Arguments of `Progress.stage`, or a count.
    """

    what: str
    name: str
    value: Any = None


class Telling(Progress):
    """A progress that tells instead of showing; `tell` is called from any thread."""

    def __init__(self, tell: Callable[[Told], object], *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self._tell = tell

    @contextmanager
    def stage(self, name: str, **arguments: Any) -> Iterator[Bar]:
        """Open the bar of one stage elsewhere; see `Progress.stage`."""
        if self.quiet:
            yield Bar()
            return
        self._tell(Told("open", name, arguments))
        try:
            yield _ToldBar(name, self._tell)
        finally:
            self._tell(Told("close", name))

    def note(self, line: str) -> None:
        """Print a line elsewhere."""
        if not self.quiet:
            self._tell(Told("note", line))


class _ToldBar(Bar):
    def __init__(self, name: str, tell: Callable[[Told], object]) -> None:
        self._name, self._tell = name, tell

    def advance(self, n: int = 1) -> None:
        """Count `n` more finished units."""
        self._tell(Told("advance", self._name, n))

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished."""
        self._tell(Told("skip", self._name, n))


class Hearing:
    """Shows what one worker tells; a note that another one has told is not told again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: dict[str, tuple[ExitStack, Bar]] = {}
        self._counted: dict[str, int] = {}

    def hear(self, told: Told) -> None:
        """Show one thing."""
        match told:
            case Told("note", line):
                if self._progress.is_first(line):
                    self._progress.note(line)
            case Told("open", name, arguments):
                held = ExitStack()
                self._open[name] = held, held.enter_context(self._progress.stage(name, **arguments))
                self._counted[name] = arguments.get("initial", 0)
            case Told("close", name):
                self._open.pop(name)[0].close()
            case Told(what, name, count):
                getattr(self._open[name][1], what)(count)
                self._counted[name] += count

    def take_back(self) -> None:
        """The worker is gone: what it counted of unfinished bars will be counted again."""
        for name, (held, bar) in self._open.items():
            bar.skip(-self._counted[name])
            held.close()
        self._open.clear()
