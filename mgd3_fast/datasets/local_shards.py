"""`wds:` shards that are plain tars of this machine: each image is read from where it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from mgd3_fast.datasets.class_names import LabelIndex
from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.images import ScannedFile, sha256_of_lines
from mgd3_fast.datasets.samples import is_label, samples
from mgd3_fast.datasets.shard_index import ShardColumns, build_index, index_path, read_index, write_index
from mgd3_fast.datasets.shards import Row
from mgd3_fast.datasets.streams import ImageStream, StreamShard
from mgd3_fast.datasets.tar_index import IndexedImage, TarIndex, TarIndexes, TarRange
from mgd3_fast.datasets.tars import read_from_tar
from mgd3_fast.progress import Progress
from mgd3_fast.storage.cache import cache_dir_or_default


class TarShard(StreamShard):
    """A local tar, whose images are read from where the indexes say; `names` is the list as tars write it."""

    is_listed = True

    def __init__(
        self,
        shards: ImageStream,
        number: int,
        labels: LabelIndex,
        count: int,
        path: Path,
        names: Sequence[str],
        indexes: TarIndexes,
    ) -> None:
        super().__init__(shards, number, labels, count)
        self._path, self._names, self._indexes = path, names, indexes
        self.title = str(path)

    @cached_property
    def key(self) -> str:
        """Hex sha256 of the tar's name, size and time, and of the class list that its labels count in."""
        return sha256_of_lines(*self._names, super().key)

    @cached_property
    def _index(self) -> TarIndex:
        return self._indexes.one(TarRange.whole(self._path))

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Its images, from one on."""
        for row in range(start, len(self._index)):
            file, label = self._index.files[row], self._index.label(row)
            name = f"{self._path.name}/{file.name}"
            named = self._labels.named(label, self.location(row, name))
            yield Row(row, name, label, *named, file.size, *self.readers(row, name))

    def location(self, number: int, name: str) -> str:
        """The tar and the image in it."""
        return f"{self._path}:{name}"

    def read(self, number: int, name: str) -> bytes:
        """Bytes of one image file; see `read_from_tar`."""
        index = self._index
        return read_from_tar(self._path, int(index.offsets[number]), int(index.files.sizes[number]))


def open_local_shards(
    shards: ImageStream,
    paths: Sequence[Path],
    classes: str | None,
    cache_dir: Path | str | None,
    progress: Progress,
) -> Dataset:
    """Open shards whose images can be read in any order: `paths` are tars that are not compressed.

    Raises:
        UserError: A damaged shard, a sample without image or label, a class without images.
    """
    indexes = TarIndexes(cache_dir_or_default(cache_dir) / "indexes", "samples", _scan)
    path = index_path(shards, cache_dir)
    index = read_index(path)
    if index is None:
        ranges, columns, left_out = [TarRange.whole(path) for path in paths], [], Counter[str]()
        with progress.stage("index", total=len(ranges), unit="tar") as bar:
            for of_tar, tar in zip(indexes.of(ranges, bar), paths, strict=True):
                columns.append(_columns(of_tar, tar.name))
                left_out.update(of_tar.left_out)
        index = build_index(columns, shards.class_names, shards.location, left_out)
        write_index(path, index)
    labels = LabelIndex(index.names, implied=shards.class_names is None)
    tars = [
        TarShard(shards, number, labels, count, tar, index.names, indexes)
        for number, (tar, count) in enumerate(zip(paths, index.shard_counts, strict=True))
    ]
    return index.dataset(shards, tars, classes, is_stream=False)


def _columns(index: TarIndex, tar: str) -> ShardColumns:
    rows = range(len(index))
    names = (f"{tar}/{index.files.name(row)}" for row in rows)
    return ShardColumns.of([index.label(row) for row in rows], names, index.files.sizes)


def _scan(tar: TarRange, left_out: Counter[str]) -> Iterator[IndexedImage]:
    for sample in samples(tar.members(wanted=is_label), str(tar.path), left_out):
        # The tar's own time of change: writers of shards often give all members one time.
        file = ScannedFile(sample.image.name, sample.image.size, tar.mtime_ns)
        yield IndexedImage(file, sample.image.offset, sample.label)
