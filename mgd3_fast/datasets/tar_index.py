"""Where each image lies in a tar file: found once by reading the headers, kept for later runs.

Shape letters: n images, L bytes of all names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.datasets.decoding import BadImageError, decode_image
from mgd3_fast.datasets.file_list import FileList, ScannedFile, pack_names, unpack_name
from mgd3_fast.datasets.images import ListedImages
from mgd3_fast.datasets.tars import Region
from mgd3_fast.progress import Bar
from mgd3_fast.storage.tensor_files import open_if_whole, save_tensors

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


class IndexedImage(NamedTuple):
    """What a scan finds of an image; `label` is its class as the tar writes it, or empty."""

    file: ScannedFile
    offset: int
    label: str


@dataclass(frozen=True)
class TarIndex:
    """The images of one tar.

    Args:
        files: Names, sizes, times of change.
        offsets: int64 [n], where each image starts in the file.
        labels: uint8 [L], labels end to end.
        label_ends: int64 [n].
    """

    files: FileList
    offsets: NDArray[np.int64]
    labels: NDArray[np.uint8]
    label_ends: NDArray[np.int64]

    @classmethod
    def of(cls, images: Iterable[IndexedImage]) -> TarIndex:
        """Pack what a scan found, in its order."""
        listed = list(images)
        offsets = np.array([image.offset for image in listed], dtype=np.int64)
        return cls(
            FileList.of(image.file for image in listed), offsets, *pack_names(image.label for image in listed)
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def label(self, position: int) -> str:
        """Label of the image at a position."""
        return unpack_name(self.labels, self.label_ends, position)


Scan = Callable[[Region, TarRange], Iterable[IndexedImage]]


class TarIndexes:
    """Finds the images of tar files, in this run or in an earlier one.

    Args:
        folder: Where indexes are kept; one file for each tar.
        kind: Names the scan: another one gives another index of the same file.
        scan: Reads a tar's headers.
    """

    def __init__(self, folder: Path, kind: str, scan: Scan) -> None:
        self._folder, self._kind, self._scan = folder, kind, scan

    def of(self, ranges: Sequence[TarRange], bar: Bar) -> Iterator[TarIndex]:
        """Indexes of some tars, in their order, several being read at a time.

        Raises:
            UserError: One is not a tar, or is broken off.
        """
        with ThreadPoolExecutor(_SCAN_THREADS, thread_name_prefix="index") as pool:
            try:
                for index in pool.map(self.one, ranges):
                    yield index
                    bar.advance()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def one(self, tar: TarRange) -> TarIndex:
        """The index of one tar; see `of`."""
        path = self._path(tar)
        kept = _read(path)
        if kept is not None:
            return kept
        with Region(tar.path, tar.start, tar.size) as region:
            index = TarIndex.of(self._scan(region, tar))
        _write(path, index)
        return index

    def _path(self, tar: TarRange) -> Path:
        identity = [self._kind, os.path.abspath(tar.path), *map(str, tar[1:])]  # noqa: PTH100
        digest = hashlib.sha256("\n".join(identity).encode("utf-8", "surrogateescape"))
        return self._folder / f"{digest.hexdigest()[:32]}.safetensors"


class TarImages(ListedImages):
    """Images of one class that lie in a tar file, read from where they are.

    Args:
        files: Names, sizes and times of change, in the order the class keeps.
        tar: The tar file.
        offsets: int64 [n], where each image starts in it.
    """

    def __init__(self, files: FileList, tar: Path, offsets: NDArray[np.int64]) -> None:
        super().__init__(files)
        self._tar, self._offsets = tar, offsets

    def location(self, position: int) -> str:
        """The tar and the image in it."""
        return f"{self._tar}:{self.name(position)}"

    def load(self, position: int) -> Image.Image:
        """Read one image as RGB; see `load_from_tar`."""
        return load_from_tar(self._tar, int(self._offsets[position]), self.size(position))


def load_from_tar(tar: Path, offset: int, size: int) -> Image.Image:
    """Read an image out of the middle of a file as RGB.

    Raises:
        BadImageError: It is empty, corrupt or too large, or the file ends in it.
        OSError: The file cannot be read.
    """
    with tar.open("rb", buffering=0) as file:
        content = os.pread(file.fileno(), size, offset)
    if len(content) < size:
        raise BadImageError("the tar file ends in it")
    return decode_image(content)


def _read(path: Path) -> TarIndex | None:
    file = open_if_whole(path)
    if file is None:
        return None
    arrays = {name: tensor.numpy() for name, tensor in file.tensors.items()}
    files = FileList(arrays["names"], arrays["ends"], arrays["sizes"], arrays["mtimes_ns"])
    return TarIndex(files, arrays["offsets"], arrays["labels"], arrays["label_ends"])


def _write(path: Path, index: TarIndex) -> None:
    files = index.files
    arrays = {
        "ends": files.ends,
        "sizes": files.sizes,
        "mtimes_ns": files.mtimes_ns,
        "offsets": index.offsets,
        "label_ends": index.label_ends,
        "names": files.names,
        "labels": index.labels,
    }
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, {"format": "mgd3-fast tar index 1"})
    except OSError:
        # An index spares the next run a scan, no more: a cache that cannot be written must not stop this one.
        return
