"""Units of work that say who did them, and that misbehave as they are told."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.workers import Begin, Place, Setup, Workers


@contextmanager
def answering(place: Place) -> Iterator[Callable[[Any], Callable[[], Any]]]:
    """Do what a unit's first word says; the result names worker, device and process."""
    place.progress.note("set up")

    def begin(unit: tuple[str, Any]) -> Callable[[], Any]:
        _WORDS[unit[0]](unit[1], place)
        return lambda: (unit[1], place.number, place.device, os.getpid())

    yield begin
    if (told := os.environ.get("TELL_END")) is not None:
        Path(told).joinpath(str(place.number)).write_text("ended in order")


def _die_once(marker: str, place: Place) -> None:
    """Die the first time that this unit is done."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _meet(folder: str, place: Place) -> None:
    """Wait until another worker does such a unit too."""
    Path(folder, str(place.number)).touch()
    deadline = time.monotonic() + 60
    while len(list(Path(folder).iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _count(n: int, place: Place) -> None:
    with place.progress.stage("count", total=n, unit="thing") as bar:
        bar.advance(n)


def _refuse(value: Any, place: Place) -> None:
    raise UserError(f"value must be another, got {value}")


def _exit(status: int, place: Place) -> None:
    os.write(2, b"no more paper\n")
    os._exit(status)


def _hold(seconds: float, place: Place) -> None:
    """Let no other thread run, as where a library is loaded."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def _break(value: Any, place: Place) -> None:
    {}[value]


class InTurn(Workers):
    """Several workers that take turns in one process, the last of them first."""

    def __init__(self, setup: Setup, count: int) -> None:
        self._setup, self._count, self._held = setup, count, ExitStack()
        self._begin: list[Begin] = []

    @property
    def count(self) -> int:
        return self._count

    def do(self, units: Iterable[Any], *, joined: tuple[str, int] | None = None) -> Iterator[tuple[Any, Any]]:
        if not self._begin:
            places = [Place(number, "cpu", alone=False) for number in range(self._count, 0, -1)]
            self._begin = [self._held.enter_context(self._setup(place)) for place in places]
        for turn, unit in enumerate(reversed(list(units))):
            yield unit, self._begin[turn % self._count](unit)()

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)


_WORDS: dict[str, Callable[[Any, Place], object]] = {
    "say": lambda value, place: None,
    "sleep": lambda seconds, place: time.sleep(seconds),
    "die once": _die_once,
    "meet": _meet,
    "hold": _hold,
    "count": _count,
    "refuse": _refuse,
    "exit": _exit,
    "break": _break,
}
