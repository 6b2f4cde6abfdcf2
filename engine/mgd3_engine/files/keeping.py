"""Where a graph or an engine lies while it is in use, and whether it is there afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def kept_in(cache_dir: Path | None) -> Iterator[Path]:
    """Give a folder for files that are made once: the caller's own, or a temporary one.

    Args:
        cache_dir: The caller's folder; None is a temporary one, deleted at the end.
    """
    if cache_dir is not None:
        yield cache_dir
        return
    with TemporaryDirectory(prefix="mgd3-engine-") as folder:
        yield Path(folder)
