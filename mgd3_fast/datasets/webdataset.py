"""`wds:`: WebDataset shards, local tars by the place of each image, all others as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import IO

from mgd3_fast.datasets.class_names import read_names
from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.file_list import sha256_of_lines
from mgd3_fast.datasets.local_shards import open_local_shards
from mgd3_fast.datasets.spec import split_options
from mgd3_fast.datasets.streams import StreamedImage
from mgd3_fast.datasets.tars import tar_members
from mgd3_fast.datasets.webdataset_samples import is_read, samples
from mgd3_fast.errors import UserError
from mgd3_fast.progress import Progress

_COMPANIONS = ("classnames.txt", "classes.txt")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Shards:
    """The shards that a `wds:` specification names.

    Args:
        spec: The specification.
        urls: Paths, URLs or pipes, in its order.
        class_names: Names in label order, or None where only labels tell.
    """

    spec: str
    urls: tuple[str, ...]
    class_names: tuple[str, ...] | None

    @property
    def name(self) -> str:
        """What the dataset is called: the specification without folders and options."""
        return "wds:" + _base_name(split_options(self.spec, ("classes",))[0])

    @property
    def location(self) -> str:
        """The specification."""
        return self.spec

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards."""
        return [_base_name(url) for url in self.urls]

    @property
    def num_images(self) -> None:
        """None: shards do not tell."""
        return None

    @cached_property
    def identity(self) -> str:
        """Hex sha256 of the class names, of names, sizes and times of change of files, and of other URLs."""
        return sha256_of_lines([*(self.class_names or ()), *self._versions])

    @cached_property
    def _versions(self) -> list[str]:
        versions = []
        for url in self.urls:
            if _is_path(url):
                found = Path(url).stat()
                versions.append(f"{_base_name(url)} {found.st_size} {found.st_mtime_ns}")
            else:
                versions.append(url)
        return versions

    def shard_key(self, shard: int) -> str:
        """As `identity`, of one shard: the others may change."""
        version = self._versions[shard]
        # Files of one name, size and time in several folders need not be the same file.
        earlier = self._versions[:shard].count(version)
        return sha256_of_lines([*(self.class_names or ()), version, str(earlier)])

    @property
    def are_plain_files(self) -> bool:
        """Whether all are local and not compressed, so that an image can be read from the middle."""
        return all(_is_path(url) and not _is_compressed(Path(url)) for url in self.urls)

    def read(self, shard: int, start: int = 0) -> Iterator[StreamedImage]:
        """Images of one shard, from a row on.

        Args:
            shard: Its place in `urls`.
            start: First row.

        Yields:
            Images in the shard's order.

        Raises:
            UserError: It cannot be opened or read to its end, or a sample lacks image or label.
        """
        url = self.urls[shard]
        try:
            with _opened(url) as file:
                members = tar_members(file, url, wanted=is_read, seekable=False)
                for row, sample in enumerate(samples(members, url)):
                    if row >= start:
                        name = f"{_base_name(url)}/{sample.image.name}"
                        yield StreamedImage(row, name, sample.label, sample.image.content or b"")
        except OSError as error:
            raise UserError(f"{url} broke off: {' '.join(str(error).split())}; run again to go on") from None


def open_webdataset(
    spec: str, classes: str | None, split: str, cache_dir: Path | str | None, progress: Progress
) -> Dataset | Shards:
    """Open `wds:PATTERN[#classes=FILE]`.

    Args:
        spec: Shards with brace expansion (`{000..146}`, `{a,b}`), `::` between patterns, and `*` in local
            ones; paths, URLs, or `pipe:` and a command.
        classes: Selector of `--classes`; all by default.
        split: Only "train": shards have no splits.
        cache_dir: Where indexes are kept.
        progress: Where the bar goes.

    Returns:
        The dataset where all shards are plain local tars, otherwise a stream.

    Raises:
        UserError: No such shards, a damaged one, a sample without image or label, a class without images.
    """
    if split != "train":
        raise UserError(f"split must be train for wds shards: name the shards of split {split} instead")
    pattern, options = split_options(spec, ("classes",))
    urls = _expand(pattern)
    shards = Shards(spec, urls, _class_names(urls, options.get("classes")))
    if not shards.are_plain_files:
        return shards
    return open_local_shards(shards, [Path(url) for url in urls], classes, cache_dir, progress)


def _expand(pattern: str) -> tuple[str, ...]:
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise _missing_extra() from None
    urls: list[str] = []
    try:
        for part in pattern.split("::"):
            for url in braceexpand(part):
                local = _is_path(url)
                path = str(Path(url.removeprefix("file:")).expanduser()) if local else url
                urls += sorted(glob(path)) if local and "*" in path else [path]  # noqa: PTH207
    except ValueError as error:
        raise UserError(f"dataset must be wds: with balanced braces, got {pattern!r}: {error}") from None
    missing = [url for url in urls if _is_path(url) and not Path(url).is_file()]
    if missing or not urls:
        raise UserError(f"dataset must name existing shards, got {missing[0] if missing else pattern!r}")
    return tuple(urls)


def _class_names(urls: Sequence[str], given: str | None) -> tuple[str, ...] | None:
    if given is not None:
        return read_names(Path(given).expanduser())
    if _is_path(urls[0]):
        for companion in _COMPANIONS:
            path = Path(urls[0]).parent / companion
            if path.is_file():
                return read_names(path)
    return None


def _is_path(url: str) -> bool:
    return url.startswith("file:") or not (url.startswith("pipe:") or "://" in url)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _base_name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    if _is_path(url):
        with Path(url).open("rb") as file:
            yield file
        return
    try:
        from webdataset.gopen import gopen
    except ImportError:
        raise _missing_extra() from None
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


def _missing_extra() -> UserError:
    return UserError("wds datasets need the package webdataset: pip install 'mgd3-fast[data]'")
