"""What a worker tells on the way: its notes and bars, shown by another process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
    """Shows what some workers tell; a note that one of them has told is not told again.

    Bars that have the name given to `joined` are one bar.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[tuple[int, str], _Open] = {}
        self._joined: tuple[str, int] | None = None
        self._one: Bar | None = None
        self._held = ExitStack()

    @contextmanager
    def joined(self, name: str, total: int) -> Iterator[None]:
        """Make one bar of `total` units of all that workers open by this name, open until the block ends."""
        self._joined, self._one = (name, total), None
        try:
            with self._held:
                yield
        finally:
            self._joined = None

    def hear(self, worker: int, told: Told) -> None:
        """Show one thing that a worker tells."""
        key = worker, told.name
        match told:
            case Told("note", line):
                if self._progress.is_first(line):
                    self._progress.note(line)
            case Told("open", name, arguments):
                self._bars[key] = self._opened(name, arguments)
            case Told("close"):
                self._bars.pop(key).held.close()
            case Told(what, _, count):
                getattr(self._bars[key].bar, what)(count)
                self._bars[key].counted += count

    def forget(self, worker: int) -> None:
        """Close the bars of a worker that is gone; what it counted in them will be counted again."""
        for key in [key for key in self._bars if key[0] == worker]:
            lost = self._bars.pop(key)
            lost.bar.skip(-lost.counted)
            lost.held.close()

    def _opened(self, name: str, arguments: dict[str, Any]) -> _Open:
        done = arguments.get("initial", 0)
        if self._joined is None or name != self._joined[0]:
            held = ExitStack()
            return _Open(held.enter_context(self._progress.stage(name, **arguments)), held, done)
        if self._one is None:
            arguments = {**arguments, "total": self._joined[1]}
            self._one = self._held.enter_context(self._progress.stage(name, **arguments))
        else:
            self._one.skip(done)
        return _Open(self._one, ExitStack(), done)


@dataclass
class _Open:
    """A bar that is shown, what closes it, and what its worker has counted in it."""

    bar: Bar
    held: ExitStack
    counted: int
