"""Workers that are processes of this machine.

Each has a connection of its own, so that one which is killed at any moment breaks nothing but its own. They
are started anew, not forked (CUDA forbids that), and not by `multiprocessing`, which would run the main
program of whoever calls once more in each.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from mgd3_fast.devices import usable_processors
from mgd3_fast.errors import UserError, shortened
from mgd3_fast.progress import Progress
from mgd3_fast.workers.base import Setup, Workers
from mgd3_fast.workers.serving import Failed, Finished, Task
from mgd3_fast.workers.telling import Hearing

TRIES = 3
CLOSING_S = 2.0
"""Seconds that workers have to end in order."""
_LAST_WORDS_BYTES = 2000
_COMMAND = (sys.executable, "-X", "faulthandler", "-m", "mgd3_fast.workers")


@dataclass
class _Unit:
    """A unit, and how often a worker has died at it."""

    unit: Any
    deaths: int = 0


class LocalWorkers(Workers):
    """Processes of this machine, started when there is something to do; each has its share of the processors.

    Args:
        setup: Prepares a worker.
        devices: The device of each.
        progress: Receives what they tell, and who died.
    """

    def __init__(self, setup: Setup, devices: Sequence[str], progress: Progress) -> None:
        self._setup, self._devices, self._progress = setup, devices, progress
        self._hearing = Hearing(progress)
        self._workers: dict[int, _Worker] = {}

    @property
    def count(self) -> int:
        """Workers that there may be at the same time."""
        return len(self._devices)

    def do(self, units: Iterable[Any], *, joined: tuple[str, int] | None = None) -> Iterator[tuple[Any, Any]]:
        """Do the units; see `Workers.do`."""
        with self._hearing.joined(*joined) if joined else nullcontext():
            yield from self._do(deque(_Unit(unit) for unit in units))

    def _do(self, left: deque[_Unit]) -> Iterator[tuple[Any, Any]]:
        while left or any(worker.doing for worker in self._workers.values()):
            self._hand_out(left)
            by_connection = {worker.connection: worker for worker in self._workers.values()}
            for ready in wait(list(by_connection)):
                worker = by_connection[ready]  # type: ignore[index]
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    left.extendleft(reversed(self._bury(worker)))
                    continue
                match message:
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
            worker.connection.close()
        until = time.monotonic() + CLOSING_S
        for worker in self._workers.values():
            worker.end(until)

    def _hand_out(self, left: deque[_Unit]) -> None:
        """Give every worker a unit; a second one, to be begun meanwhile, where that leaves nobody idle."""
        for number, device in enumerate(self._devices, 1):
            if left and number not in self._workers:
                task = Task(self._setup, number, device, self._progress.quiet)
                self._workers[number] = _Worker.start(task, self.count)
            if left and not self._workers[number].doing:
                self._workers[number].send(left.popleft())
        for worker in self._workers.values():
            # What others have died of is done alone: only itself is to blame then.
            alone = any(one.deaths for one in worker.doing)
            if len(left) > self.count and len(worker.doing) == 1 and not alone and not left[0].deaths:
                worker.send(left.popleft())

    def _bury(self, worker: _Worker) -> list[_Unit]:
        """Forget a worker that is dead, and return what it leaves undone."""
        how, said = worker.end(time.monotonic() + CLOSING_S), worker.last_words()
        del self._workers[worker.number]
        self._hearing.forget(worker.number)
        for one in worker.doing:
            one.deaths += 1
            if one.deaths == TRIES:
                raise UserError(
                    f"{one.unit} was given up after {TRIES} tries: worker {worker.number} on {worker.device}"
                    f" {how}{said}"
                )
        undone = f"; {worker.doing[0].unit} is begun again" if worker.doing else ""
        self._progress.note(f"worker {worker.number} on {worker.device} {how}{said}{undone}")
        return list(worker.doing)


@dataclass
class _Worker:
    """One process, and what it has to do, in order."""

    number: int
    device: str
    process: subprocess.Popen[bytes]
    connection: Connection
    said: Any
    doing: deque[_Unit] = field(default_factory=deque)

    @classmethod
    def start(cls, task: Task, workers: int) -> _Worker:
        """Start a process, which begins to set itself up."""
        ours, theirs = socket.socketpair()
        said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        with theirs:
            process = subprocess.Popen(
                [*_COMMAND, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[theirs.fileno()],
                env=_environment(workers),
                start_new_session=True,  # Ctrl-C is for the driver, whose end is theirs
            )
        worker = cls(task.number, task.device, process, Connection(ours.detach()), said)
        worker.connection.send(task)
        return worker

    def send(self, unit: _Unit) -> None:
        """Give it one more unit; where it is dead already, reading from it will tell."""
        self.doing.append(unit)
        with suppress(OSError):
            self.connection.send((unit.unit,))

    def end(self, until: float) -> str:
        """Wait for the process, kill it when time is over, and say how it ended."""
        self.connection.close()
        try:
            status = self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status >= 0:
            return f"ended with status {status}"
        short = " (as the system does where memory is short)" if status == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-status).name}{short}"

    def last_words(self) -> str:
        """The last line that it printed, if any."""
        with self.said:
            self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
            lines = self.said.read().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f", having said: {shortened(words[-1], 150)}" if words else ""


def _environment(workers: int) -> dict[str, str]:
    """The environment of a worker: its modules are those of this process, its processors a share of them."""
    share = max(1, usable_processors() // workers)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": str(min(share, int(threads))) if threads.isdecimal() else str(share),
        "LOKY_MAX_CPU_COUNT": str(share),  # what `usable_processors` counts
    }
