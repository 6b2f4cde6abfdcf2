"""Where each image lies in a tar file: found once by reading the headers, kept for later runs.

Shape letters: n images, L bytes of all names.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.datasets.batches import run_ahead
from mgd3_fast.datasets.images import FileList, ScannedFile, pack_names, sha256_of_lines, unpack_name
from mgd3_fast.datasets.tars import Member, tar_members
from mgd3_fast.progress import Bar
from mgd3_fast.storage.tensor_files import open_if_whole, save_arrays

# Headers lie apart: reading them waits for the disk.
_SCAN_THREADS = 8


class TarRange(NamedTuple):
    """A tar file, or a tar inside a tar: path, first byte, bytes, and the outer file's time of change."""

    path: Path
    start: int
    size: int
    mtime_ns: int

    @classmethod
    def whole(cls, path: Path) -> TarRange:
        """All of a file."""
        found = path.stat()
        return cls(path, 0, found.st_size, found.st_mtime_ns)

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Its files; see `tar_members`."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            yield from tar_members(file, str(self.path), wanted, stop=self.start + self.size)


class IndexedImage(NamedTuple):
    """What a scan finds of an image: file, where it starts, and its class where the tar writes it."""

    file: ScannedFile
    offset: int
    label: str = ""


@dataclass(frozen=True)
class TarIndex:
    """The images of one tar.

    Args:
        files: Names, sizes, times of change.
        offsets: int64 [n], where each image starts in the file.
        labels: uint8 [L], labels end to end.
        label_ends: int64 [n].
        left_out: Files that are no images, by suffix.
    """

    files: FileList
    offsets: NDArray[np.int64]
    labels: NDArray[np.uint8]
    label_ends: NDArray[np.int64]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets)

    def label(self, position: int) -> str:
        """Label of the image at a position."""
        return unpack_name(self.labels, self.label_ends, position)


class TarIndexes:
    """Finds the images of tar files, in this run or in an earlier one.

    Args:
        folder: Keeps a file for each tar.
        kind: Names the scan: another one gives another index of the same file.
        scan: Reads a tar's headers, and counts what it leaves out.
    """

    def __init__(
        self, folder: Path, kind: str, scan: Callable[[TarRange, Counter[str]], Iterable[IndexedImage]]
    ) -> None:
        self._folder, self._kind, self._scan = folder, kind, scan

    def of(self, ranges: Sequence[TarRange], bar: Bar) -> Iterator[TarIndex]:
        """Indexes of some tars, in their order, several being read at a time.

        Raises:
            UserError: One is not a tar, or is broken off.
        """
        for index in run_ahead((partial(self.one, tar) for tar in ranges), _SCAN_THREADS, 2 * _SCAN_THREADS):
            yield index
            bar.advance()

    def one(self, tar: TarRange) -> TarIndex:
        """The index of one tar; see `of`."""
        identity = [self._kind, os.path.abspath(tar.path), *map(str, tar[1:])]  # noqa: PTH100
        path = self._folder / f"{sha256_of_lines(*identity)[:32]}.safetensors"
        index = _read(path)
        if index is None:
            left_out: Counter[str] = Counter()
            images = list(self._scan(tar, left_out))
            files = FileList.of(image.file for image in images)
            offsets = np.array([image.offset for image in images], dtype=np.int64)
            index = TarIndex(files, offsets, *pack_names(image.label for image in images), left_out)
            _write(path, index)
        return index


def _read(path: Path) -> TarIndex | None:
    file = open_if_whole(path)
    if file is None:
        return None
    arrays = {name: tensor.numpy() for name, tensor in file.tensors.items()}
    files = FileList(arrays["names"], arrays["ends"], arrays["sizes"], arrays["mtimes_ns"])
    left_out = json.loads(file.metadata.get("left_out", "{}"))
    return TarIndex(files, arrays["offsets"], arrays["labels"], arrays["label_ends"], left_out)


def _write(path: Path, index: TarIndex) -> None:
    files = index.files
    arrays: dict[str, NDArray[Any]] = {
        "ends": files.ends,
        "sizes": files.sizes,
        "mtimes_ns": files.mtimes_ns,
        "offsets": index.offsets,
        "label_ends": index.label_ends,
        "names": files.names,
        "labels": index.labels,
    }
    metadata = {"format": "mgd3-fast tar index 1"}
    if index.left_out:
        metadata["left_out"] = json.dumps(index.left_out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, arrays, metadata)
    except OSError:
        # An index spares the next run a scan, no more: a cache that cannot be written must not stop this one.
        return
