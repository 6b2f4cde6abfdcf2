"""Where each image of a dataset in shards of mixed classes lies, class after class: found once, then kept.

Of a stream nothing is known before it was read once, and from then on it opens like any other dataset.

Shape letters: n images, N classes, r rows of a shard, L bytes of all names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.datasets.class_names import LabelIndex, names_of_labels, plain_names
from mgd3_fast.datasets.dataset import Dataset, ImageClass
from mgd3_fast.datasets.folders import left_out_notes
from mgd3_fast.datasets.images import FileList, pack_names, unpack_name
from mgd3_fast.datasets.selector import order_notes
from mgd3_fast.datasets.shards import Shard, ShardImages
from mgd3_fast.datasets.streams import ImageStream, StreamShard
from mgd3_fast.errors import UserError, listed
from mgd3_fast.storage.cache import cache_dir_or_default
from mgd3_fast.storage.tensor_files import open_if_whole, save_arrays

_FORMAT = "mgd3-fast shard index 1"


class ShardColumns(NamedTuple):
    """What is known of the rows of a shard, in their order.

    Args:
        label_names: Distinct labels, as the source writes them, in the order of their first rows.
        labels: int64 [r], place of each row's label in `label_names`.
        names: uint8 [L], names end to end.
        ends: int64 [r], where each name ends.
        sizes: int64 [r], bytes of the image files.
    """

    label_names: tuple[str, ...]
    labels: NDArray[np.int64]
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, labels: Iterable[str], names: Iterable[str], sizes: Iterable[int]) -> ShardColumns:
        """Pack rows, in their order."""
        places: dict[str, int] = {}
        packed = [places.setdefault(label, len(places)) for label in labels]
        of_rows = np.array(packed, dtype=np.int64), *pack_names(names), np.fromiter(sizes, dtype=np.int64)
        return cls(tuple(places), *of_rows)

    def unpacked(self) -> list[bytes]:
        """The names."""
        packed = self.names.tobytes()
        return [packed[start:end] for start, end in pairwise([0, *self.ends.tolist()])]

    def digest(self) -> str:
        """Hex sha256 of all of it."""
        digest = hashlib.sha256(json.dumps(self.label_names).encode())
        for column in self[1:]:
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def classes(self, labels: LabelIndex, where: str) -> NDArray[np.int64]:
        """Place in the class list of each row, int64 [r].

        Raises:
            UserError: A label is out of range; it names the dataset, which is `where`, and the image.
        """
        _, first_rows = np.unique(self.labels, return_index=True)
        table = [
            labels.of(name, f"{where}: {unpack_name(self.names, self.ends, row)}")
            for name, row in zip(self.label_names, first_rows, strict=True)
        ]
        return np.array(table, dtype=np.int64)[self.labels]


@dataclass(frozen=True)
class ShardIndex:
    """The images of all shards, class after class in label order, within a class in the shards' order.

    Args:
        names: The full class list, as the source writes it.
        counts: int64 [N], images of each class.
        files: Names and sizes of the images.
        shards: int64 [n], which shard holds each image.
        rows: int64 [n], where in it.
        digests: Of the rows of each shard; see `ShardColumns.digest`.
        left_out: Files of the shards that are neither images nor labels, by suffix, where they were counted.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    files: FileList
    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    digests: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def shard_counts(self) -> list[int]:
        """Images of each shard."""
        counts: list[int] = np.bincount(self.shards, minlength=len(self.digests)).tolist()
        return counts

    def dataset(
        self,
        source: ImageStream,
        shards: Sequence[Shard],
        classes: str | None,
        split: str = "train",
        *,
        is_stream: bool = True,
    ) -> Dataset:
        """Open the dataset of a source, whose shards are in the order of `source.shards`.

        Raises:
            UserError: An opened class has no image.
        """
        names = plain_names(self.names)
        found = []
        for label, (start, stop) in enumerate(pairwise([0, *np.cumsum(self.counts).tolist()])):
            files, part = self.files.part(start, stop), slice(start, stop)
            images = ShardImages(files, shards, self.shards[part], self.rows[part])
            found.append(ImageClass(names[label], label, images))
        notes = [*([] if source.class_names else order_notes(names)), *left_out_notes(self.left_out)]
        stream = source if is_stream else None
        dataset = Dataset(source.name, tuple(found), names, split, source.location, notes, stream)
        dataset = dataset if classes is None else dataset.subset(classes)
        empty = [cls.name for cls in dataset.classes if not len(cls)]
        if empty:
            raise UserError(
                f"{source.location} has no images of {listed(empty)} (--classes leaves classes out)"
            )
        return dataset


def build_index(
    columns: Sequence[ShardColumns],
    names: tuple[str, ...] | None,
    where: str,
    left_out: Mapping[str, int] | None = None,
) -> ShardIndex:
    """Order the rows of all shards by class.

    Args:
        columns: Rows of each shard.
        names: The class list as the source writes it; None for what the labels imply.
        where: The dataset, for messages.
        left_out: See `ShardIndex`.

    Raises:
        UserError: A label is out of range.
    """
    implied = names is None
    if names is None:
        names = names_of_labels(name for of_shard in columns for name in of_shard.label_names)
    labels = LabelIndex(names, implied=implied)
    classes = _joined(one.classes(labels, where) for one in columns)
    lengths = [len(one.sizes) for one in columns]
    order = np.argsort(classes, kind="stable")
    files = FileList(*_ordered_names(columns, order), _joined(one.sizes for one in columns)[order], order * 0)
    shards = np.repeat(np.arange(len(columns), dtype=np.int64), lengths)
    return ShardIndex(
        tuple(names),
        np.bincount(classes, minlength=len(names)).astype(np.int64),
        files,
        shards[order],
        _joined(np.arange(length, dtype=np.int64) for length in lengths)[order],
        tuple(one.digest() for one in columns),
        left_out or {},
    )


def stream_shards(stream: ImageStream, index: ShardIndex | None = None) -> list[Shard]:
    """The shards of a stream; where it was read before, with what is known of them."""
    labels = LabelIndex(stream.class_names)
    if index is None:
        return [StreamShard(stream, number, labels) for number in range(len(stream.shards))]
    known = zip(index.shard_counts, index.digests, strict=True)
    return [StreamShard(stream, number, labels, *of_shard) for number, of_shard in enumerate(known)]


def index_path(stream: ImageStream, cache_dir: Path | str | None) -> Path:
    """Where the index of a dataset in shards is kept."""
    return cache_dir_or_default(cache_dir) / "indexes" / f"shards-{stream.identity[:32]}.safetensors"


def read_index(path: Path) -> ShardIndex | None:
    """Read what `write_index` wrote; None where there is nothing, or only a damaged file."""
    file = open_if_whole(path)
    if file is None or file.metadata.get("format") != _FORMAT:
        return None
    arrays = {name: tensor.numpy() for name, tensor in file.tensors.items()}
    no_times = np.zeros(len(arrays["sizes"]), dtype=np.int64)
    files = FileList(arrays["names"], arrays["ends"], arrays["sizes"], no_times)
    names, digests = (tuple(json.loads(file.metadata[name])) for name in ("names", "digests"))
    left_out = json.loads(file.metadata.get("left_out", "{}"))
    return ShardIndex(names, arrays["counts"], files, arrays["shards"], arrays["rows"], digests, left_out)


def write_index(path: Path, index: ShardIndex) -> None:
    """Keep an index for later runs.

    Raises:
        OSError: The folder cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {
        "counts": index.counts,
        "ends": index.files.ends,
        "sizes": index.files.sizes,
        "shards": index.shards,
        "rows": index.rows,
        "names": index.files.names,
    }
    lists = {"names": json.dumps(index.names), "digests": json.dumps(index.digests)}
    if index.left_out:
        lists["left_out"] = json.dumps(index.left_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, arrays, {"format": _FORMAT, **lists})


def _ordered_names(
    columns: Sequence[ShardColumns], order: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Names of all rows in an order: bytes end to end, and where each ends."""
    names = [name for one in columns for name in one.unpacked()]
    ends = np.cumsum([len(names[row]) for row in order], dtype=np.int64)
    return np.frombuffer(b"".join(names[row] for row in order), dtype=np.uint8), ends


def _joined(arrays: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *arrays])
