"""Buckets in memory that hold copies of folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsspec.implementations.memory import MemoryFileSystem


@contextmanager
def bucket_of(folder: Path, url: str = "memory://bucket") -> Iterator[str]:
    """The URL of a copy of a folder, which is gone afterwards."""
    files = MemoryFileSystem()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files.pipe_file(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    try:
        yield url
    finally:
        if files.exists(url):
            files.rm(url, recursive=True)
