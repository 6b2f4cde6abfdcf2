"""The output folder of a conversion: everything in it, or nothing.

Files are made in `OUT/.mgd3-fast/export/` and renamed into place when all of them are there, `export.json`
last: it is there if and only if the conversion is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from mgd3_engine.files.renaming import named
from mgd3_fast.errors import UserError
from mgd3_fast.formats.record import CARD, RECORD, read_record
from mgd3_fast.writers import WORK, unwritable_error

_DRAFT = "export"


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make an output folder ours: nobody else converts into it meanwhile, and failure leaves no trace.

    While it is held it is empty or holds a whole conversion; it is taken away again if it was made and stays
    empty.

    Raises:
        UserError: If it holds something else or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out must be a folder, got the file {out}")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(out, os.O_RDONLY)
        except OSError as error:
            raise unwritable_error(out, error) from None
        try:
            with suppress(OSError):  # a file system without locks: both would write the same bytes
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            _clear_unfinished(out)
            _check_ours(out)
            yield
        finally:
            os.close(descriptor)
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


@contextmanager
def draft_in(out: Path) -> Iterator[Path]:
    """Make an empty folder for unfinished files inside a held output folder, and take it away at the end.

    Raises:
        UserError: If it cannot be written.
    """
    draft = out / WORK / _DRAFT
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise unwritable_error(out, error) from None
    try:
        with named(out):
            yield draft
    finally:
        _discard(draft)


def put_in_place(draft: Path, out: Path, *, keep_card: bool) -> dict[str, Any]:
    """Rename finished files and their record into place; an older conversion gives way, files of others stay.

    Args:
        draft: The finished files.
        out: Output folder, held.
        keep_card: Leave a README.md that is there already: its reader may have edited it.

    Returns:
        The record.
    """
    new, old = read_record(draft), read_record(out)
    assert new is not None
    _remove(out, set(old["files"] if old else ()) - set(new["files"]))
    (out / RECORD).unlink(missing_ok=True)
    for name in new["files"]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).replace(out / name)
    card = draft / CARD
    if card.exists() and not (keep_card and (out / CARD).exists()):
        card.replace(out / CARD)
    (draft / RECORD).replace(out / RECORD)
    return new


def _clear_unfinished(out: Path) -> None:
    """Take away what a killed conversion left: its draft, and what it had renamed already."""
    draft = out / WORK / _DRAFT
    if not draft.is_dir():
        return
    record = read_record(draft)
    if record is not None and read_record(out) is None:
        _remove(out, (*record["files"], CARD))
    _discard(draft)


def _discard(draft: Path) -> None:
    """Remove a draft, and the folder of working state unless a run keeps its own there."""
    shutil.rmtree(draft, ignore_errors=True)
    with suppress(OSError):
        draft.parent.rmdir()


def _remove(out: Path, names: Iterable[str]) -> None:
    """Remove files inside the folder, and folders that become empty."""
    for path in map(PurePosixPath, names):
        if path.is_absolute() or ".." in path.parts:
            continue
        (out / path).unlink(missing_ok=True)
        with suppress(OSError):
            for folder in path.parents[:-1]:
                (out / folder).rmdir()


def _check_ours(out: Path) -> None:
    found = sorted(path.name for path in out.iterdir())
    if found and read_record(out) is None:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(f"out must be empty or hold what convert wrote, got {out} with {found[0]!r}{more}")
