"""Read tar files: their members one after another, or one image out of the middle."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, cast

from mgd3_fast.datasets.decoding import BadImageError
from mgd3_fast.errors import UserError, missing

if TYPE_CHECKING:
    from typing_extensions import Self

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00\x00\x80", _ZSTD_MAGIC)


class Member(NamedTuple):
    """A file in a tar.

    Args:
        name: Path inside the tar.
        offset: Where its bytes start in the file that holds the tar.
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
    file: IO[bytes], where: str, wanted: Callable[[str], bool], stop: int | None = None
) -> Iterator[Member]:
    """Go through the files of a tar; folders and links are passed over.

    Args:
        file: Stands at the tar's first byte. Without `stop` it may be a pipe, and compressed by gzip, bzip2,
            xz or zstd.
        where: The tar's name, for messages.
        wanted: Whether the contents of a member of this name are to be read.
        stop: Where a plain tar in a file that can be sought ends; more may follow.

    Yields:
        Its files in the tar's order.

    Raises:
        UserError: Not a tar, or broken off; or zstd without the package that reads it.
    """
    mode: Literal["r:", "r|*"] = "r|*" if stop is None else "r:"
    try:
        if stop is None:
            file = _without_zstd(file, where)
        elif file.tell() >= stop:
            raise ReadError("it is empty")
        with tarfile.open(fileobj=file, mode=mode, tarinfo=_StrictInfo) as tar:
            while stop is None or tar.offset < stop:
                found = tar.next()
                if found is None:
                    return
                # A TarFile keeps all members it has seen; a shard of a stream may have millions.
                tar.members = []  # type: ignore[attr-defined]
                if stop is not None and found.offset_data + found.size > stop:
                    break
                if found.isreg():
                    read = cast("IO[bytes]", tar.extractfile(found)).read if wanted(found.name) else None
                    mtime_ns = round(found.mtime) * 10**9
                    content = read() if read else None
                    yield Member(found.name, found.offset_data, found.size, mtime_ns, content)
            raise ReadError(f"broken off after {stop:,} bytes")
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{where} is not a whole tar file: {error}") from None


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


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed, by its first bytes, so that it can only be read from front to back."""
    with path.open("rb") as file:
        return file.read(8).startswith(_MAGICS)


def read_from_tar(tar: Path, offset: int, size: int) -> bytes:
    """Read an image file out of the middle of a tar.

    Raises:
        BadImageError: The tar ends in it.
        OSError: The file cannot be read.
    """
    with tar.open("rb", buffering=0) as file:
        content = os.pread(file.fileno(), size, offset)
    if len(content) < size:
        raise BadImageError("the tar file ends in it")
    return content


class _Pushed:
    """A file whose first bytes were read, with these bytes before it again."""

    closed = False

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = head, file

    def read(self, size: int) -> bytes:
        if not self._head:
            return self._file.read(size)
        head, self._head = self._head[:size], self._head[size:]
        return head + self._file.read(size - len(head))


def _without_zstd(file: IO[bytes], where: str) -> IO[bytes]:
    """The bytes of a file that may be compressed by zstd, which `tarfile` knows from Python 3.14 on."""
    head = file.read(len(_ZSTD_MAGIC))
    whole = cast("IO[bytes]", _Pushed(head, file))
    if head != _ZSTD_MAGIC:
        return whole
    try:
        import pyarrow
    except ImportError:
        raise missing(f"{where} is compressed by zstd, which the package pyarrow reads", "data") from None
    return cast("IO[bytes]", pyarrow.CompressedInputStream(pyarrow.PythonFile(whole, mode="r"), "zstd"))
