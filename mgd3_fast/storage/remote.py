"""Storage by URL: the one place that talks to fsspec.

A store that is slow or fails for a moment is asked again, with pauses that double, for `PATIENCE_S` seconds.
What stays wrong is told in one line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from mgd3_fast.errors import UserError
from mgd3_fast.storage.store_errors import code_of, may_pass, said, status_of

T = TypeVar("T")

PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CONNECTIONS = {"config_kwargs": {"max_pool_connections": 64}}  # where botocore's default is 10
_VERSIONS = ("blob_id", "ETag", "etag", "mtime", "created")
_THERE, _UNKNOWN = 412, 501  # HTTP statuses of conditional writes: refused, and not known to the store


def is_url(place: object) -> bool:
    """Whether a place is named by a URL, such as s3://bucket/folder, and not by a path."""
    return isinstance(place, str) and _URL.match(place) is not None


def connected(url: str) -> tuple[Any, str]:
    """Open the file system of a URL; nothing is asked of the server yet.

    Args:
        url: Of a kind that fsspec knows. Credentials and endpoints come from where its package looks for
            them, such as AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL or ~/.aws.

    Returns:
        The file system, which keeps no listings, and the path of the URL in it.

    Raises:
        UserError: There is no such kind, or its package is missing.
    """
    import fsspec

    connections = _CONNECTIONS if url.lower().startswith("s3") else {}
    with told(url):
        files, path = fsspec.url_to_fs(url, use_listings_cache=False, **connections)
    return files, path


def ask(url: str, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call a method of a file system, again and again while what it raises may pass.

    Args:
        url: What is asked for, for messages.
        call: A method of `connected(url)[0]`.
        arguments: Handed to it.
        named: Handed to it.

    Raises:
        FileNotFoundError: There is no such object, in a bucket that is there.
        FileExistsError: There is one, and it was to be new.
        UserError: What else is wrong.
    """
    started, pause = time.monotonic(), FIRST_PAUSE_S
    with told(url):
        while True:
            try:
                return call(*arguments, **named)
            except Exception as error:
                if not may_pass(error) or time.monotonic() - started + pause > PATIENCE_S:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turn what a file system raises in a `with` block into one line.

    Raises:
        FileNotFoundError: As it is, but for a bucket that is missing.
        FileExistsError: As it is.
        UserError: In place of everything else.
    """
    try:
        yield
    except (UserError, FileExistsError):
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and code_of(error) != "NoSuchBucket":
            raise
        raise UserError(f"{url} {said(url, error, PATIENCE_S)}") from None


def version_of(info: Mapping[str, Any]) -> str:
    """What tells a version of an object from another one, by its entry in a listing; empty where nothing."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


class Bucket:
    """A place on a store, whose objects are named relative to it.

    Args:
        url: Such as s3://bucket/folder; it need not be there.

    Raises:
        UserError: By every method: what the store said, in one line.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._path = connected(self.url)

    def __str__(self) -> str:
        return self.url

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Bytes of an object, or its part from `start` up to `stop`.

        Raises:
            FileNotFoundError: There is none.
        """
        return bytes(self._ask(name, self._files.cat_file, self._at(name), start=start, end=stop))

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Bytes of several objects, which are read at the same time; one that is gone is left out."""
        paths = {self._at(name): name for name in names}
        if not paths:
            return {}
        found = self._ask("", self._cat_each, list(paths))
        return {name: found[path] for path, name in paths.items() if path in found}

    def read_parts(self, parts: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Bytes of parts of objects, given by name, start and stop, which are read at the same time."""
        paths = [self._at(name) for name, *_ in parts]
        starts, stops = [start for _, start, _ in parts], [stop for *_, stop in parts]
        return [bytes(one) for one in self._ask("", self._files.cat_ranges, paths, starts, stops)]

    def sizes(self, under: str = "") -> dict[str, int]:
        """Bytes of every object whose name begins with a folder, by name, in order of names."""
        found = self._ask(under, self._files.find, self._at(under), detail=True)
        inside = len(self._path.rstrip("/")) + 1
        return {path[inside:]: int(found[path]["size"] or 0) for path in sorted(found)}

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless one of this name is there; it appears whole or not at all.

        The store decides between several who do so at once. One that knows no conditional writes is looked
        at first: then of two at the same moment the last wins.

        Returns:
            Whether there was none. After a lost answer it may be the own one that is found there.
        """
        try:
            self._ask(name, self._create, self._at(name), content)
        except FileExistsError:
            return False
        return True

    def write(self, name: str, content: bytes) -> None:
        """Write an object, in place of one of this name."""
        self._ask(name, self._files.pipe_file, self._at(name), content)

    def upload(self, name: str, file: Path) -> None:
        """Write an object of any size from a file, in place of one of this name."""
        self._ask(name, self._files.put_file, str(file), self._at(name))

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, many at a time; those that are gone already are no mistake."""
        paths = [self._at(name) for name in names]
        with suppress(FileNotFoundError):
            if paths:
                self._ask("", self._files.rm, paths)

    def _ask(self, name: str, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return ask(f"{self.url}/{name}".rstrip("/"), call, *arguments, **named)

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}".rstrip("/")

    def _cat_each(self, paths: list[str]) -> dict[str, bytes]:
        found: dict[str, Any] = self._files.cat(paths, on_error="return")
        gone = {path for path, one in found.items() if isinstance(one, FileNotFoundError)}
        for one in found.values():
            if isinstance(one, Exception) and not isinstance(one, FileNotFoundError):
                raise one
        return {path: bytes(one) for path, one in found.items() if path not in gone}

    def _create(self, path: str, content: bytes) -> None:
        try:
            self._files.pipe_file(path, content, mode="create")
        except (NotImplementedError, OSError) as error:
            if status_of(error) == _THERE:
                raise FileExistsError(path) from None
            if status_of(error) != _UNKNOWN and not isinstance(error, NotImplementedError):
                raise
            if self._files.exists(path):
                raise FileExistsError(path) from None
            self._files.pipe_file(path, content)
