"""Files that appear, or replace older ones, only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name a file in errors of the system that name none: those of writing, such as a full disk.

    Args:
        path: What is written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def renamed(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give a temporary name beside a file's own, and the file written there its own name at the end.

    Args:
        path: The file; where the writing fails nothing of it is left.
        shared: Whether several processes may write it at once: each has a temporary name of its own. There
            is one name otherwise, so that killed runs leave at most one file, which the next one uses.
    """
    unfinished = path.with_name(f".{path.name}.{f'{os.getpid()}.tmp' if shared else 'new'}")
    try:
        with named(path):
            yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
