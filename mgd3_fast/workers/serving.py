"""What runs in a worker: units come in, results go out, until whoever asks is gone."""

from __future__ import annotations

import os
import pickle
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from mgd3_fast.errors import UserError, is_users_mistake
from mgd3_fast.workers.base import Place, Setup, WorkerError
from mgd3_fast.workers.telling import Telling, Told

ORPHANED = 3
"""Exit status of a worker that was at work when its driver was gone."""
_ORDERLY_S = 0.5


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


class Server:
    """One worker's end of its connection.

    A thread reads it at all times: its end is that of whoever asked, however that ended, and then a worker
    ends as well, in the middle of a unit if it has one.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._read, name="units", daemon=True).start()

    def run(self) -> None:
        """Set up, then do unit after unit."""
        task = self._inbox.get()
        try:
            if task is not None:
                self._serve(task)
        except Exception as error:
            self._send(Failed(_sendable(error)))
        finally:
            self._over.set()

    def _serve(self, task: Task) -> None:
        place = Place(task.number, task.device, Telling(self._send, quiet=task.quiet), alone=False)
        begun: deque[Callable[[], Any]] = deque()
        with task.setup(place) as begin:
            while True:
                if begun and self._inbox.empty():
                    self._send(Finished(begun.popleft()()))
                    continue
                message = self._inbox.get()
                if message is None:
                    return
                begun.append(begin(message[0]))
                if len(begun) > 1:
                    self._send(Finished(begun.popleft()()))

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._inbox.put(self._connection.recv())
        self._inbox.put(None)
        if not self._over.wait(_ORDERLY_S):
            os._exit(ORPHANED)

    def _send(self, message: Finished | Failed | Told) -> None:
        with self._sending, suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(message)


def _sendable(error: Exception) -> Exception:
    """An error as another process can raise it: a mistake as it is, a bug in words."""
    if not is_users_mistake(error):
        return WorkerError("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return UserError(str(error))
    return error
