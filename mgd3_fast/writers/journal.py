"""What is finished, one JSON line each: a line is written after its image has its final name."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError


class Journal(AbstractContextManager["Journal"]):
    """The append-only record of one shard; only one process at a time may hold it.

    Args:
        path: The journal's file; created where missing.
        out: What the shard is written into, for messages; by default the folder that the working state is in.

    Raises:
        UserError: If another process is writing the same shard.
    """

    def __init__(self, path: Path, out: str | None = None) -> None:
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"another process is writing the same --shard into {out or path.parent.parent}: wait for it,"
                " or give each process a part of its own"
            ) from None
        except OSError:
            pass  # a file system without locks: two equal processes would only do the same work twice
        self._drop_half_line()

    def append(self, record: dict[str, Any]) -> None:
        """Add one record and hand it to the operating system."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Bring all records to the disk: on a shared file system other machines see them then."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, which also makes it visible to other machines, and release the lock."""
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_half_line(self) -> None:
        """Cut off a last line that a killed process did not finish."""
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a journal that may be under way; a half-written line is skipped."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and line.endswith(b"\n"):
                yield record
