"""What every kind of workers is asked for, and the plainest kind: this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from mgd3_fast.progress import SILENT, Progress

Self = TypeVar("Self", bound="Workers")

Begin = Callable[[Any], Callable[[], Any]]
"""Begins a unit and returns what waits for its result: the next unit is begun while one is finished."""


@dataclass(frozen=True)
class Place:
    """Where a worker works.

    Args:
        number: Of the worker, from 1.
        device: auto, cpu, cuda or cuda:N.
        progress: Receives its bars and notes.
        alone: Whether there is no other worker.
    """

    number: int = 1
    device: str = "auto"
    progress: Progress = SILENT
    alone: bool = True


Setup = Callable[[Place], AbstractContextManager[Begin]]
"""Entered once in every worker, where it loads what all units need. It travels to processes by pickle."""


class WorkerError(RuntimeError):
    """An error in a worker that is nobody's mistake; the message is the worker's traceback."""


class Workers(ABC):
    """Does units of work; a context, whose end is the workers' end.

    A unit is a small value that can be pickled. It can be done twice without harm, by any worker.
    """

    @abstractmethod
    def do(self, units: Iterable[Any], *, joined: tuple[str, int] | None = None) -> Iterator[tuple[Any, Any]]:
        """Do some units, on as many workers as there are and as have something to do.

        Args:
            units: What to do.
            joined: A name, and a total: the bars of this name that several workers open are shown as one.

        Yields:
            A unit and its result, as they are finished.

        Raises:
            Exception: What a unit or the set-up raised, at once.
            UserError: Workers died three times at one unit; with what they said last.
        """

    @property
    @abstractmethod
    def count(self) -> int:
        """Workers that there may be at the same time."""

    def __enter__(self: Self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ThisProcess(Workers):
    """One worker, which is the process that asks."""

    count = 1

    def __init__(self, setup: Setup, place: Place) -> None:
        self._setup, self._place, self._held = setup, place, ExitStack()
        self._begin: Begin | None = None

    def do(self, units: Iterable[Any], *, joined: tuple[str, int] | None = None) -> Iterator[tuple[Any, Any]]:
        """Do the units in order; see `Workers.do`."""
        if self._begin is None:
            self._begin = self._held.enter_context(self._setup(self._place))
        begun: tuple[Any, Callable[[], Any]] | None = None
        for unit in units:
            following = unit, self._begin(unit)
            if begun is not None:
                yield begun[0], begun[1]()
            begun = following
        if begun is not None:
            yield begun[0], begun[1]()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)
