"""Storage by URL: the one place that talks to fsspec.

A store that is slow or fails for a moment is asked again, with pauses that double, for `PATIENCE_S` seconds.
What stays wrong is told in one line.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from mgd3_fast.errors import UserError

T = TypeVar("T")

PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CONNECTIONS = {"config_kwargs": {"max_pool_connections": 64}}  # where botocore's default is 10
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_VERSIONS = ("blob_id", "ETag", "etag", "mtime", "created")
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # HTTP statuses; 409 is of two conditional writes at once
_THERE, _UNKNOWN = 412, 501  # HTTP statuses of conditional writes: refused, and not known to the store
_PASSING_ERRNOS = {errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT}
_PASSING_ERRORS = {  # of packages that need not be there
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "httpx.TransportError",
    "requests.exceptions.ConnectionError",
}
_NO_CREDENTIALS = {
    "botocore.exceptions.NoCredentialsError",
    "botocore.exceptions.PartialCredentialsError",
}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_FULL = {507, "InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}


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
                if not _may_pass(error) or time.monotonic() - started + pause > PATIENCE_S:
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
        if isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket":
            raise
        raise UserError(f"{url} {_said(url, error)}") from None


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

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are gone already are no mistake."""
        for name in names:
            try:
                self._ask(name, self._files.rm_file, self._at(name))
            except FileNotFoundError:
                continue

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
            if _status(error) == _THERE:
                raise FileExistsError(path) from None
            if _status(error) != _UNKNOWN and not isinstance(error, NotImplementedError):
                raise
            if self._files.exists(path):
                raise FileExistsError(path) from None
            self._files.pipe_file(path, content)


def _answers(error: BaseException | None) -> Iterator[tuple[int | None, str | None]]:
    """HTTP status and S3's word for what is wrong, of the errors that an error came of."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            yield response.get("ResponseMetadata", {}).get("HTTPStatusCode"), response["Error"].get("Code")
        for status in (getattr(response, "status_code", None), getattr(error, "code", None)):
            if isinstance(status, int):
                yield status, None
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    return next((status for status, _ in _answers(error)), None)


def _code(error: BaseException) -> str | None:
    return next((code for _, code in _answers(error)), None)


def _kinds(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ConnectionError | TimeoutError) or _kinds(error) & _PASSING_ERRORS:
        return True
    return _status(error) in _PASSING or (isinstance(error, OSError) and error.errno in _PASSING_ERRNOS)


def _said(url: str, error: Exception) -> str:
    """What is wrong, and what to do, behind the URL."""
    protocol = url.partition("://")[0].lower()
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(protocol)
        return f"needs a package: pip install 'mgd3-fast[{extra}]'" if extra else f"needs a package: {reason}"
    if isinstance(error, ValueError) and "rotocol" in reason:
        return "must be a URL that fsspec knows, such as s3://, gs:// or hf://"
    if _code(error) == "NoSuchBucket":
        return "must lie in a bucket that exists: make the bucket first"
    if _kinds(error) & _NO_CREDENTIALS:
        return "asks for credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws"
    if {_status(error), _code(error)} & _FULL or getattr(error, "errno", None) in _FULL_ERRNOS:
        return f"has no room left: {reason}; once there is room, the same command goes on"
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return f"does not let these credentials in: {reason}"
    if _may_pass(error):
        return f"did not answer for {PATIENCE_S:.0f} s: {reason}; the same command goes on"
    return f"cannot be used: {reason}"
