"""A folder that cannot be written, as on a file system that is mounted to be read: also for root."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHANGING = os.O_CREAT | os.O_RDWR | os.O_WRONLY


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Refuse whatever would change the folder or what is below it."""

    def below(path: Any) -> bool:
        return isinstance(path, (str, Path)) and Path(path).is_relative_to(folder)

    def refused(path: Any) -> OSError:
        return OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guarded(original: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *given: Any, **options: Any) -> Any:
            if below(path) and writes(*given, **options):
                raise refused(path)
            return original(path, *given, **options)

        return call

    access = os.access
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: access(path, mode) and not (below(path) and mode & 2))
        patch.setattr(os, "open", guarded(os.open, lambda flags, *_, **__: flags & CHANGING != 0))
        patch.setattr(io, "open", guarded(io.open, lambda mode="r", *_, **__: mode.strip("rbt") != ""))
        for name in ("mkdir", "unlink", "rmdir", "rename", "replace"):
            patch.setattr(os, name, guarded(getattr(os, name), lambda *_, **__: True))
        yield
