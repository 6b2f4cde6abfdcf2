"""Files that show whether other machines see the same folders."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def left_in(folders: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Leave a file in each folder while the block lasts; folders that were made for it go with it.

    Raises:
        OSError: A folder cannot be written.
    """
    with ExitStack() as made:
        tokens = []
        for folder in map(Path.absolute, folders):
            for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
                missing.mkdir(exist_ok=True)
                made.callback(_remove_if_empty, missing)
            token = folder / f".seen-by-all-{uuid.uuid4().hex}"
            token.touch()
            made.callback(token.unlink, missing_ok=True)
            tokens.append(token)
        yield tuple(tokens)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
