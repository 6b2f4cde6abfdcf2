"""`wds:`: WebDataset shards, local tars by the place of each image, all others as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import IO

from mgd3_fast.datasets.class_names import read_names
from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.images import sha256_of_lines
from mgd3_fast.datasets.local_shards import open_local_shards
from mgd3_fast.datasets.samples import is_read, samples
from mgd3_fast.datasets.streams import StreamedImage, split_options
from mgd3_fast.datasets.tars import is_compressed, tar_members
from mgd3_fast.errors import UserError, missing
from mgd3_fast.progress import Progress
from mgd3_fast.storage.cache import expanded
from mgd3_fast.storage.remote_path import REQUESTS, RemotePath, path_at

_COMPANIONS = ("classnames.txt", "classes.txt")
_PACKAGE = ("wds datasets need the package webdataset", "data")  # and its extra


class Shards:
    """The shards that a `wds:` specification names; an `ImageStream`.

    Args:
        spec: The specification.
        urls: Paths, URLs or pipes, in its order.
        class_names: Names in label order, or None where only labels tell.
    """

    def __init__(self, spec: str, urls: Sequence[str], class_names: tuple[str, ...] | None) -> None:
        self.name = "wds:" + _base_name(split_options(spec, ("classes",))[0])
        self.location, self.class_names = spec, class_names
        self.shards: Sequence[str] = [_base_name(url) for url in urls]
        self.num_images: int | None = None  # shards do not tell
        self._urls = urls

    @cached_property
    def identity(self) -> str:
        """Hex sha256 of the class names, of names, sizes and versions of files, and of what is no file."""
        return sha256_of_lines(*(self.class_names or ()), *self._versions)

    @cached_property
    def _versions(self) -> list[str]:
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="ask") as pool:
            return list(pool.map(_version, self._urls))

    def shard_key(self, shard: int) -> str:
        """As `identity`, of one shard: the others may change."""
        version = self._versions[shard]
        # Files of one name, size and time in several folders need not be the same file.
        earlier = self._versions[:shard].count(version)
        return sha256_of_lines(*(self.class_names or ()), version, str(earlier))

    def read(self, shard: int, start: int = 0) -> Iterator[StreamedImage]:
        """See `ImageStream.read`."""
        url = self._urls[shard]
        try:
            with _opened(url) as file:
                members = tar_members(file, url, wanted=is_read)
                for row, sample in enumerate(samples(members, url)):
                    if row >= start:
                        name = f"{_base_name(url)}/{sample.image.name}"
                        yield StreamedImage(row, name, sample.label, sample.image.content or b"")
        except UserError:
            raise
        except Exception as error:  # the libraries below raise errors of a dozen families
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{url} broke off: {reason}; run again to go on") from error


def open_webdataset(
    spec: str, classes: str | None, split: str, cache_dir: Path | str | None, progress: Progress
) -> Dataset | Shards:
    """Open `wds:PATTERN[#classes=FILE]`: the dataset where all shards are plain local tars, else a stream.

    PATTERN has brace expansion (`{000..146}`, `{a,b}`), `::` between patterns, and `*` where files can be
    listed; it names paths, URLs, or `pipe:` and a command. The split is "train": shards have no splits.

    Raises:
        UserError: No such shards, a damaged one, a sample without image or label, a class without images.
    """
    if split != "train":
        raise UserError(f"split must be train for wds shards: name the shards of split {split} instead")
    pattern, options = split_options(spec, ("classes",))
    urls = _expand(pattern)
    shards = Shards(spec, urls, _class_names(urls, options.get("classes")))
    paths = [Path(url) for url in urls if _is_path(url)]
    if len(paths) < len(urls) or any(map(is_compressed, paths)):
        return shards
    return open_local_shards(shards, paths, classes, cache_dir, progress)


def _expand(pattern: str) -> tuple[str, ...]:
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise missing(*_PACKAGE) from None
    try:
        named = [url for part in pattern.split("::") for url in braceexpand(part)]
    except ValueError as error:
        raise UserError(f"dataset must be wds: with balanced braces, got {pattern!r}: {error}") from None
    urls: list[str] = []
    for url in named:
        path = str(expanded(_without_scheme(url))) if _is_path(url) else url
        urls += _matches(path) if "*" in path and not path.startswith("pipe:") else [path]
    absent = [url for url in urls if _is_path(url) and not Path(url).is_file()]
    if absent or not urls:
        raise _missing_shard(absent[0] if absent else pattern)
    return tuple(urls)


def _class_names(urls: Sequence[str], given: str | None) -> tuple[str, ...] | None:
    """Names in a list: a given one, looked for here and then beside the shards; else their companion."""
    beside = [] if _is_piped(urls[0]) else [path_at(urls[0]).parent]
    if given is not None:
        places = [path_at(given), *(folder / given for folder in beside)]
        return read_names(next((path for path in places if path.is_file()), places[0]))
    companions = (folder / name for folder in beside for name in _COMPANIONS)
    return next((read_names(path) for path in companions if path.is_file()), None)


def _is_path(url: str) -> bool:
    return url.startswith("file:") or not (url.startswith("pipe:") or "://" in url)


def _is_piped(url: str) -> bool:
    """Whether webdataset runs a command for it, which is asked for nothing but the shard."""
    return url.startswith(("pipe:", "http:", "https:"))


def _without_scheme(url: str) -> str:
    return url.removeprefix("file://").removeprefix("file:")


def _matches(pattern: str) -> list[str]:
    found = path_at(pattern)
    return found.glob() if isinstance(found, RemotePath) else sorted(glob(pattern))  # noqa: PTH207


def _version(url: str) -> str:
    if _is_piped(url):
        return url
    if not _is_path(url):
        try:
            return RemotePath(url).version()
        except FileNotFoundError:
            raise _missing_shard(url) from None
    found = Path(url).stat()
    return f"{_base_name(url)} {found.st_size} {found.st_mtime_ns}"


def _base_name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    if not _is_piped(url):
        with Path(url).open("rb") if _is_path(url) else RemotePath(url).open() as file:
            yield file
        return
    try:
        from webdataset.gopen import gopen
    except ImportError:
        raise missing(*_PACKAGE) from None
    pipe = gopen(url, "rb")
    try:
        yield pipe
    except UserError:
        # Whoever sends may have failed: its exit status, which only the end shows, says more.
        _drain(pipe)
        raise
    except BaseException:
        pipe.ignore_errors = True
        pipe.close()
        raise
    _drain(pipe)


def _drain(pipe: IO[bytes]) -> None:
    while pipe.read(2**20):
        pass
    pipe.close()


def _missing_shard(url: str) -> UserError:
    return UserError(f"dataset must name existing shards, got {url!r}")
