"""File systems that lack something, as network file systems and disks of other systems may."""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def without_locks(reason: int = errno.ENOLCK) -> Iterator[None]:
    """Every `flock` fails, as on NFS without a lock server (ENOLCK) or Lustre without `-o flock` (ENOSYS)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", _failing(reason))
        yield


@contextmanager
def without_hard_links(reason: int = errno.EPERM) -> Iterator[None]:
    """Every hard link fails, as on exFAT and on some SMB servers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", _failing(reason))
        yield


@contextmanager
def seen_late(folder: Path, looks: int, *, but: str = "") -> Iterator[Counter[str]]:
    """Hide files that are in a folder now, as another machine's new ones may be: from so many looks at each.

    What this machine writes is seen at once, and so is a file of the name `but`.

    Yields:
        How often each of them was looked for.
    """
    stat, scan, opened, asked = os.stat, os.scandir, io.open, Counter[str]()
    hidden = {
        str(path): path.stat().st_ino for path in folder.rglob("*") if path.is_file() and path.name != but
    }

    def is_late(path: Any) -> bool:
        name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if name not in hidden or not os.access(name, os.F_OK) or stat(name).st_ino != hidden[name]:
            return False
        asked[name] += 1
        return asked[name] <= looks

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *given: Any, **options: Any) -> Any:
            writes = original is opened and set("wax") & set(given[0] if given else "r")
            if not writes and is_late(path):  # writing asks the server
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return original(path, *given, **options)

        return call

    @contextmanager
    def scandir(path: Any = ".") -> Iterator[Iterator[os.DirEntry[Any]]]:
        with scan(path) as found:
            yield iter([entry for entry in found if not is_late(entry.path)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", guarded(stat))
        patch.setattr(io, "open", guarded(opened))
        patch.setattr(os, "scandir", scandir)
        yield asked


def _failing(reason: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(reason, os.strerror(reason))

    return fail
