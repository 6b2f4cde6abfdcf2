"""What every writer asks of its output: can it be written, and are its files what they were."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path

from mgd3_fast.errors import UserError

_CHUNK_BYTES = 1 << 20


def check_own(out: Path, kind: str, *patterns: str) -> None:
    """Refuse a folder that holds something else: beside a dataset's folders, results would pass for classes.

    Args:
        out: The folder, which need not exist.
        kind: What a command makes in it.
        patterns: Of names, one of which is there as soon as the command has begun.

    Raises:
        UserError: None of them is there, but other visible files are.
    """
    if any(out.glob("[!.]*")) and not any(any(out.glob(pattern)) for pattern in patterns):
        raise UserError(f"out must be new, empty or a folder of an earlier {kind}, got {out}")


def check_writable(out: Path) -> None:
    """Try whether a folder, which need not exist, can be made and written, and leave no trace.

    Raises:
        UserError: With the system's reason.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"x")
    except OSError as error:
        raise unwritable_error(out, error) from None
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def file_digest(path: Path) -> str | None:
    """The sha256 of a file, or None where there is none."""
    try:
        return sha256_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def sha256_of(path: Path) -> str:
    """The sha256 of a file of any size, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def unwritable_error(out: Path, error: OSError) -> UserError:
    """Say that an output folder cannot be written, with the system's reason."""
    return UserError(f"out must be a folder that can be written, got {out}: {error.strerror}")
