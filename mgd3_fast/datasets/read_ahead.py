"""Take the items of an iterator on a thread of its own, so that reading and working overlap."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
_POLL_S = 0.1


class _End(NamedTuple):
    """The iterator is used up, or failed."""

    error: BaseException | None


def read_ahead(items: Iterator[Item], depth: int) -> Generator[Item]:
    """Read up to `depth` items ahead.

    Args:
        items: Read, and closed when the reader stops early, on one thread.
        depth: Most items that wait.

    Yields:
        The items in their order.

    Raises:
        BaseException: What reading raised, after the items before it.
    """
    queue: Queue[Item | _End] = Queue(depth)
    stopped = Event()

    def put(item: Item | _End) -> bool:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=_POLL_S)
                return True
            except Full:
                continue
        return False

    def read() -> None:
        error = None
        try:
            for item in items:
                if not put(item):
                    break
        except BaseException as raised:
            error = raised
        finally:
            if isinstance(items, Generator):
                items.close()
        put(_End(error))

    thread = Thread(target=read, name="read", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = queue.get(timeout=_POLL_S)
            except Empty:
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join()
