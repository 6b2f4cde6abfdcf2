"""`wds:`: WebDataset shards, local tars by the place of each image, all others as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from glob import glob
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from mgd3_engine.cache import cache_dir_or_default
from mgd3_fast.datasets.class_names import LabelIndex, read_names
from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.file_list import ScannedFile, pack_names
from mgd3_fast.datasets.shard_index import (
    ShardColumns,
    ShardIndex,
    build_index,
    index_path,
    known_index,
)
from mgd3_fast.datasets.shards import Row
from mgd3_fast.datasets.spec import split_options
from mgd3_fast.datasets.streams import StreamedImage, StreamShard
from mgd3_fast.datasets.tar_index import IndexedImage, TarIndex, TarIndexes, TarRange, load_from_tar
from mgd3_fast.datasets.tars import Region, tar_members
from mgd3_fast.datasets.webdataset_samples import is_label, is_read, samples
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
        return _sha256([*(self.class_names or ()), *self._versions])

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
        return _sha256([*(self.class_names or ()), version, str(earlier)])

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
    return _indexed(shards, classes, cache_dir, progress)


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


class TarShard(StreamShard):
    """A local tar, whose images are read from where they are.

    Args:
        shards: The shards that it is one of.
        number: Its place among them.
        names: The class list as the tars write it.
        labels: Finds the classes of labels.
        tar: The file.
        indexes: Tell where its images are.
    """

    is_listed = True

    def __init__(
        self,
        shards: Shards,
        number: int,
        names: Sequence[str],
        labels: LabelIndex,
        indexes: TarIndexes,
        count: int,
    ) -> None:
        super().__init__(shards, number, labels, count=count)
        self._names, self._path, self._indexes = names, Path(shards.urls[number]), indexes
        self.title = str(self._path)

    @cached_property
    def key(self) -> str:
        """Hex sha256 of the tar's name, size and time, and of the class list that its labels count in."""
        return _sha256([*self._names, self._stream.shard_key(self._number)])

    @cached_property
    def _index(self) -> TarIndex:
        return self._indexes.one(TarRange.whole(self._path))

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Its images, from one on."""
        for row in range(start, len(self._index)):
            name = f"{self._path.name}/{self._index.files.name(row)}"
            label = self._index.label(row)
            named = self._labels.named(label, self.location(row, name))
            size = int(self._index.files.sizes[row])
            yield Row(row, name, label, *named, size, partial(self.load, row, name))

    def location(self, number: int, name: str) -> str:
        """The tar and the image in it."""
        return f"{self._path}:{name}"

    def load(self, number: int, name: str) -> Image.Image:
        """Read one image as RGB; see `load_from_tar`."""
        index = self._index
        return load_from_tar(self._path, int(index.offsets[number]), int(index.files.sizes[number]))


def _indexed(
    shards: Shards, classes: str | None, cache_dir: Path | str | None, progress: Progress
) -> Dataset:
    indexes = TarIndexes(cache_dir_or_default(cache_dir) / "indexes", "samples", _scan)
    ranges = [TarRange.whole(Path(url)) for url in shards.urls]

    def build() -> ShardIndex:
        with progress.stage("index", total=len(ranges), unit="tar") as bar:
            columns = [
                _columns(index, tar.path.name)
                for index, tar in zip(indexes.of(ranges, bar), ranges, strict=True)
            ]
        return build_index(columns, shards.class_names, shards.location)

    index = known_index(index_path(shards, cache_dir), build)
    labels = LabelIndex(index.names, implied=shards.class_names is None)
    counts = np.bincount(index.shards, minlength=len(ranges)).tolist()
    tars = [
        TarShard(shards, number, index.names, labels, indexes, counts[number])
        for number in range(len(ranges))
    ]
    return index.dataset(shards, tars, classes, is_stream=False)


def _columns(index: TarIndex, tar: str) -> ShardColumns:
    rows = range(len(index))
    of_rows = [index.label(row) for row in rows]
    label_names = tuple(dict.fromkeys(of_rows))
    places = {label: place for place, label in enumerate(label_names)}
    labels = np.array([places[label] for label in of_rows], dtype=np.int64)
    packed = pack_names(f"{tar}/{index.files.name(row)}" for row in rows)
    return ShardColumns(label_names, labels, *packed, index.files.sizes)


def _scan(region: Region, tar: TarRange) -> Iterator[IndexedImage]:
    members = tar_members(region, str(tar.path), wanted=is_label)
    for sample in samples(members, str(tar.path)):
        # The tar's own time of change: writers of shards often give all members one time.
        file = ScannedFile(sample.image.name, sample.image.size, tar.mtime_ns)
        yield IndexedImage(file, sample.image.offset, sample.label)


def _sha256(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


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
