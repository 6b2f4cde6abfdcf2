"""Read tar files: their members one after another, or one image out of the middle."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, cast

from mgd3_fast.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self


class Member(NamedTuple):
    """A file in a tar.

    Args:
        name: Path inside the tar.
        offset: Where its bytes start in the tar.
        size: Bytes.
        mtime_ns: Time of change that the tar records.
        content: Its bytes where they were asked for.
    """

    name: str
    offset: int
    size: int
    mtime_ns: int
    content: bytes | None


def tar_members(
    file: IO[bytes] | Region, where: str, wanted: Callable[[str], bool], *, seekable: bool = True
) -> Iterator[Member]:
    """Go through the files of a tar; folders and links are passed over.

    Args:
        file: The tar, from its first byte; compressed ones only where `seekable` is False.
        where: The tar's name, for messages.
        wanted: Whether the contents of a member of this name are to be read.
        seekable: False for a pipe or a download.

    Yields:
        Its files in the tar's order.

    Raises:
        UserError: Not a tar, or broken off.
    """
    mode: Literal["r:", "r|*"] = "r:" if seekable else "r|*"
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", file), mode=mode, tarinfo=_StrictInfo) as tar:
            while (found := tar.next()) is not None:
                # A TarFile keeps all members it has seen; a shard of a stream may have millions.
                tar.members = []  # type: ignore[attr-defined]
                if not found.isreg():
                    continue
                content = None
                if wanted(found.name):
                    content = cast("IO[bytes]", tar.extractfile(found)).read()
                mtime_ns = round(found.mtime) * 10**9
                yield Member(found.name, found.offset_data, found.size, mtime_ns, content)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{where} must be a whole tar file: {error}") from None


class _StrictInfo(tarfile.TarInfo):
    """A header that must be one, or the zeros at the end: the library takes a cut-off file for its end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(f"broken off or damaged after {tarfile.offset:,} bytes ({error})") from None


class Region(io.RawIOBase):
    """A range of a file as a file of its own: a tar inside a tar.

    Args:
        path: The file.
        start: First byte.
        size: Bytes.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move within the range."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Position within the range."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, to the end of the range by default."""
        left = max(0, self._size - self._position)
        count = left if size < 0 else min(size, left)
        content = os.pread(self._file.fileno(), count, self._start + self._position)
        self._position += len(content)
        return content

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
