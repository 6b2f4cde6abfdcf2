"""Files read ahead on threads, and the sha256 of large ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

WORKERS = 4
READ_AHEAD = 64  # what is read but not yet written stays below this many images
_CHUNK_BYTES = 1 << 20


def read_ahead(items: Iterable[Item], read: Callable[[Item], Value]) -> Iterator[tuple[Item, Value]]:
    """Read items side by side and hand them out in their order.

    Args:
        items: What is to be read.
        read: Reads one; runs on worker threads.

    Yields:
        Each item with what was read.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="read") as pool:
        while some := list(islice(remaining, READ_AHEAD)):
            yield from zip(some, pool.map(read, some), strict=True)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file of any size, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
