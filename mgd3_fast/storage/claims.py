"""Who encodes what, when several processes or machines fill one store.

A claim is a lock that the system holds on a file of the store's folder. The system lifts it when its process
ends, however it ends, so there are no stale claims. Where the file system knows no locks, everybody gets
every claim: work may be done twice, and nothing worse, because finished files are renamed into place.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class Claim:
    """A piece of work that is ours until it is released."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def release(self) -> None:
        """Let others have it; safe to call twice."""
        if self._descriptor >= 0:
            # Unlinked while it is held: whoever waits for this file sees that it is gone and opens a new one.
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def claim(path: Path) -> Claim | None:
    """Take a piece of work; None while another process, or another part of this one, has it.

    Args:
        path: Lock file; made if missing, deleted on release.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        if _is_at(path, descriptor):
            return Claim(path, descriptor)
        os.close(descriptor)


def remove_unheld(folder: Path) -> None:
    """Delete the lock files that killed processes left."""
    for path in folder.glob(".*.lock"):
        left = claim(path)
        if left is not None:
            left.release()


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the locked file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
