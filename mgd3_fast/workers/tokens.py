"""Files that show whether other machines see the same folders."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mgd3_fast.storage.claims import claim, remove_unheld


@contextmanager
def left_in(folders: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Leave a file in each folder while the block lasts; folders that were made for it go with it.

    Files that killed processes have left are deleted.

    Raises:
        OSError: A folder cannot be written.
    """
    with ExitStack() as made:
        tokens = []
        for folder in map(Path.absolute, folders):
            for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
                missing.mkdir(exist_ok=True)
                made.callback(_remove_if_empty, missing)
            remove_unheld(folder)
            token = folder / f".seen-by-all-{uuid.uuid4().hex}.lock"
            held = claim(token)
            assert held is not None
            made.callback(held.release)
            tokens.append(token)
        yield tuple(tokens)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
