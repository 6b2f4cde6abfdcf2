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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from mgd3_fast.devices import usable_processors
from mgd3_fast.errors import shortened
from mgd3_fast.progress import Progress
from mgd3_fast.workers.base import Setup
from mgd3_fast.workers.pool import Message, Pool, Worker
from mgd3_fast.workers.serving import Task

_LAST_WORDS_BYTES = 2000
_COMMAND = (sys.executable, "-X", "faulthandler", "-m", "mgd3_fast.workers")


class LocalWorkers(Pool["_Process"]):
    """Processes of this machine, started when there is something to do; each has its share of the processors.

    Args:
        setup: Prepares a worker.
        devices: The device of each.
        progress: Receives what they tell, and who died.
    """

    def __init__(self, setup: Setup, devices: Sequence[str], progress: Progress) -> None:
        super().__init__(progress)
        self._setup, self._devices = setup, devices

    @property
    def count(self) -> int:
        """Workers that there may be at the same time."""
        return len(self._devices)

    def _start(self, needed: int) -> None:
        idle = sum(not worker.doing for worker in self._workers.values())
        missing = [number for number in range(1, self.count + 1) if number not in self._workers]
        for number in missing[: max(0, needed - idle)]:
            task = Task(self._setup, number, self._devices[number - 1], self._progress.quiet)
            self._workers[number] = _Process.start(task, self.count)

    def _heard(self) -> Iterator[tuple[_Process, Message | None]]:
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        for ready in wait(list(by_connection)):
            worker = by_connection[ready]  # type: ignore[index]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                message = None
            yield worker, message


@dataclass
class _Process(Worker):
    """A worker that is a process."""

    device: str
    process: subprocess.Popen[bytes]
    connection: Connection
    said: Any

    @classmethod
    def start(cls, task: Task, workers: int) -> _Process:
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

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"worker {self.number} on {self.device}"

    def put(self, message: Any) -> None:
        """Send a message."""
        with suppress(OSError):
            self.connection.send(message)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def end(self, until: float) -> str:
        """Wait for the process, kill it when time is over; say how it ended and what it printed last."""
        self.close()
        try:
            status = self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status >= 0:
            return f"ended with status {status}{self._last_words()}"
        short = " (as the system does where memory is short)" if status == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-status).name}{short}{self._last_words()}"

    def _last_words(self) -> str:
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
