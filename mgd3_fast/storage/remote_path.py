"""Paths in a bucket, read as those of a disk are: folders, files, their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

from mgd3_fast.errors import UserError
from mgd3_fast.storage.cache import expanded
from mgd3_fast.storage.remote import ask, connected, is_url, version_of

REQUESTS = 32
"""Worth being under way at a time: an answer of a bucket takes 20 to 100 ms, however short it is."""

_BLOCK_BYTES = 2**23


class RemoteFile(NamedTuple):
    """What a listing tells of a file: its name relative to the folder, bytes, and a number of its version."""

    name: str
    size: int
    version: int


class RemotePath:
    """A folder or file by its URL; nothing is asked of the server before it has to be.

    Args:
        url: Of a kind that fsspec knows, such as s3://bucket/photos.

    Raises:
        FileNotFoundError: By methods that read or list what is not there.
        UserError: By every method that asks: a package is missing, or what the server answered.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self._url}/{name}")  # without a name the folder itself, as of a Path

    @property
    def name(self) -> str:
        """Its last part."""
        return self._url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that it lies in."""
        return RemotePath(self._url.rpartition("/")[0])

    def resolve(self) -> RemotePath:
        """Itself: a URL is whole."""
        return self

    def is_dir(self) -> bool:
        """Whether it is a folder that holds anything; a bucket that does not exist is told."""
        try:
            found = self._ask("ls", detail=True)
        except FileNotFoundError:
            return False
        return any(one["name"].rstrip("/") != self._connected[1] for one in found)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return bool(self._ask("isfile"))

    def folders(self) -> list[str]:
        """Names of the visible folders in it, sorted."""
        found = self._ask("ls", detail=True)
        names = (one["name"].rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory")
        return sorted(name for name in names if not name.startswith("."))

    def files(self) -> Iterator[RemoteFile]:
        """The visible files in it and in its visible folders, by one listing."""
        for path, info in self._ask("find", detail=True).items():
            name = path[len(self._connected[1]) :].lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name and not name.endswith("/") and not hidden:
                yield RemoteFile(name, int(info["size"] or 0), _number_of(version_of(info)))

    def glob(self) -> list[str]:
        """URLs of what it names as a pattern with `*`, sorted."""
        return sorted(map(self._connected[0].unstrip_protocol, self._ask("glob")))

    def version(self) -> str:
        """Name, size and version of a file; of copies the same where versions are named by content."""
        info = self._ask("info")
        return f"{self.name} {info['size']} {version_of(info)}"

    def read_bytes(self) -> bytes:
        """All of a file."""
        return bytes(self._ask("cat_file"))

    def open(self) -> IO[bytes]:
        """A file to be read from front to back: the next 8 MiB are on their way while the last are used."""
        opened: IO[bytes] = self._ask("open", "rb", block_size=_BLOCK_BYTES, cache_type="background")
        return opened

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        files, path = self._connected
        return ask(self._url, getattr(files, method), path, *arguments, **named)

    @cached_property
    def _connected(self) -> tuple[Any, str]:
        return connected(self._url)


def path_at(place: Path | str) -> Path | RemotePath:
    """What a path or URL names.

    Raises:
        UserError: A home folder that is not known, or a web server's URL, which cannot be listed.
    """
    if not is_url(place) or str(place).startswith("file://"):
        return expanded(str(place).removeprefix("file://"))
    if str(place).startswith(("http://", "https://")):
        raise UserError(f"a folder must lie on a disk or in a bucket (s3://, gs://, hf://), got {place}")
    return RemotePath(str(place))


def _number_of(version: str) -> int:
    """A version as a number of 63 bits, 0 where the server tells none."""
    return int.from_bytes(hashlib.sha256(version.encode()).digest()[:8], "big") >> 1 if version else 0
