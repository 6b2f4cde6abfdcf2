"""What runs in a worker: units come in, results go out, until whoever asks is gone."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from mgd3_fast.errors import UserError, is_users_mistake
from mgd3_fast.workers.base import Place, Setup, WorkerError
from mgd3_fast.workers.telling import Telling, Told

_PR_SET_PDEATHSIG = 1


class Task(NamedTuple):
    """What a worker is to be: its set-up and its place, whose progress is quiet or not."""

    setup: Setup
    number: int
    device: str
    quiet: bool


class Finished(NamedTuple):
    """The result of the earliest unit that was not answered yet."""

    result: Any


class Failed(NamedTuple):
    """What a unit, or the set-up, raised."""

    error: Exception


class Line(Protocol):
    """A `Connection`, or what does as one."""

    def poll(self) -> bool:
        """Whether a message is there."""

    def recv(self) -> Any:
        """Wait for a message; EOFError where the other end is closed."""

    def send(self, message: Any, /) -> None:
        """Send a message."""


class Server:
    """A worker's end of its connection: set up, then unit after unit, until the other end is closed."""

    def __init__(self, connection: Line) -> None:
        self._connection, self._sending = connection, threading.Lock()

    def run(self) -> None:
        """Serve; an error is told, if anybody is there to hear it."""
        try:
            self._serve(self._connection.recv())
        except Exception as error:
            with suppress(ConnectionError):
                self._send(Failed(_sendable(error)))

    def _serve(self, task: Task) -> None:
        place = Place(task.number, task.device, Telling(self._send, quiet=task.quiet), alone=False)
        begun: deque[Callable[[], Any]] = deque()
        with task.setup(place) as begin:
            while True:
                if begun and not self._connection.poll():
                    self._send(Finished(begun.popleft()()))
                    continue
                try:
                    (unit,) = self._connection.recv()
                except EOFError:
                    return
                begun.append(begin(unit))
                if len(begun) > 1:
                    self._send(Finished(begun.popleft()()))

    def _send(self, message: Finished | Failed | Told) -> None:
        with self._sending:
            self._connection.send(message)


def end_with(parent: int) -> None:
    """Have the system kill this process when the thread ends that started it, whatever it is doing then.

    A thread that waits for that would come too late: a library that is being loaded lets no other thread run.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("whoever started this worker is gone")


def _sendable(error: Exception) -> Exception:
    """An error as another process can raise it: a mistake as it is, a bug in words."""
    if not is_users_mistake(error):
        return WorkerError("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return UserError(str(error))
    return error
