"""Units handed to workers that may come, and die, at any moment, wherever these are."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

from mgd3_fast.errors import UserError
from mgd3_fast.progress import Progress
from mgd3_fast.workers.base import Workers
from mgd3_fast.workers.serving import Failed, Finished
from mgd3_fast.workers.telling import Hearing, Told

TRIES = 3
CLOSING_S = 2.0
"""Seconds that workers have to end in order."""

Message = Finished | Failed | Told


@dataclass
class Unit:
    """A unit, and how often a worker has died at it."""

    unit: Any
    deaths: int = 0


@dataclass
class Worker(ABC):
    """A worker as a pool sees it, and what it has to do, in order."""

    number: int
    doing: deque[Unit] = field(default_factory=deque, init=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def takes_units(self) -> bool:
        """Whether it is there already, or sure to come."""
        return True

    def send(self, unit: Unit) -> None:
        """Give it one more unit; where it is dead already, hearing from it will tell."""
        self.doing.append(unit)
        self.put((unit.unit,))

    @abstractmethod
    def put(self, message: Any) -> None:
        """Send a message to its `Server`."""

    @abstractmethod
    def close(self) -> None:
        """Tell it that nothing more will come."""

    @abstractmethod
    def end(self, until: float) -> str:
        """Close it, wait for its end, kill it when time is over; say how it ended and what it said last."""


AnyWorker = TypeVar("AnyWorker", bound=Worker)


class Pool(Workers, ABC, Generic[AnyWorker]):
    """Hands units out, and out again where a worker died; how workers are started and heard is a subclass's.

    Args:
        progress: Receives what they tell, and who died.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._hearing = Hearing(progress)
        self._workers: dict[int, AnyWorker] = {}

    @abstractmethod
    def _start(self, needed: int) -> None:
        """Start workers, where fewer have no unit than are needed and more may be started."""

    @abstractmethod
    def _heard(self) -> Iterator[tuple[AnyWorker, Message | None]]:
        """Wait for messages of workers; None is the end of one."""

    def do(self, units: Iterable[Any], *, joined: tuple[str, int] | None = None) -> Iterator[tuple[Any, Any]]:
        """Do the units; see `Workers.do`."""
        with self._hearing.joined(*joined) if joined else nullcontext():
            yield from self._do(deque(Unit(unit) for unit in units))

    def _do(self, left: deque[Unit]) -> Iterator[tuple[Any, Any]]:
        while left or any(worker.doing for worker in self._workers.values()):
            self._start(len(left))
            self._hand_out(left)
            for worker, message in self._heard():
                match message:
                    case None:
                        left.extendleft(reversed(self._bury(worker)))
                    case Finished(result):
                        yield worker.doing.popleft().unit, result
                    case Failed(error):
                        raise error
                    case told:
                        self._hearing.hear(worker.number, told)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()
        until = time.monotonic() + CLOSING_S
        for worker in self._workers.values():
            worker.end(until)

    def _hand_out(self, left: deque[Unit]) -> None:
        """Give every worker a unit; a second one, to be begun meanwhile, where that leaves nobody idle."""
        ready = [worker for worker in self._workers.values() if worker.takes_units]
        for worker in ready:
            if left and not worker.doing:
                worker.send(left.popleft())
        for worker in ready:
            # What others have died of is done alone: only itself is to blame then.
            alone = any(one.deaths for one in worker.doing)
            if len(left) > self.count and len(worker.doing) == 1 and not alone and not left[0].deaths:
                worker.send(left.popleft())

    def _bury(self, worker: AnyWorker) -> list[Unit]:
        """Forget a worker that is dead, and return what it leaves undone."""
        how = worker.end(time.monotonic() + CLOSING_S)
        del self._workers[worker.number]
        self._hearing.forget(worker.number)
        for one in worker.doing:
            one.deaths += 1
            if one.deaths == TRIES:
                raise UserError(f"{one.unit} was given up after {TRIES} tries: {worker.name} {how}")
        undone = f"; {worker.doing[0].unit} is begun again" if worker.doing else ""
        self._progress.note(f"{worker.name} {how}{undone}")
        return list(worker.doing)
