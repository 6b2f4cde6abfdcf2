"""Work on threads that does not run ahead of them, and whose errors reach whoever adds more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Self = TypeVar("Self", bound="WorkQueue")


class WorkQueue:
    """A few threads that do what is added, in its order; nothing more is begun after an error.

    Args:
        name: Of the threads.
        threads: How many.
        most: Pieces of work that may be unfinished; adding another one waits.
    """

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threading.BoundedSemaphore(most)
        self._error: BaseException | None = None

    def add(self, work: Callable[..., object], *arguments: Any) -> None:
        """Queue a piece of work.

        Raises:
            BaseException: Whatever an earlier piece raised.
        """
        self._free.acquire()
        if self._error is not None:
            self._free.release()
            raise self._error
        self._pool.submit(self._do, work, arguments)

    def close(self) -> None:
        """Wait until everything is done.

        Raises:
            BaseException: Whatever a piece raised.
        """
        self._pool.shutdown(wait=True)
        if self._error is not None:
            raise self._error

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._pool.shutdown(wait=True)  # what is queued is finished work: keep it

    def _do(self, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            if self._error is None:
                work(*arguments)
        except BaseException as error:
            self._error = error
        finally:
            self._free.release()
