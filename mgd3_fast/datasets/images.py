"""Where the images of one class come from: a list of files, or arrays in memory.

Shape letters: n files or images, L bytes of all names, H W pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.datasets.decoding import BadImageError, decode_image
from mgd3_fast.storage.remote_path import RemotePath


class ImageSource(Protocol):
    """The images of one class, in a fixed order."""

    @property
    def in_memory(self) -> bool:
        """Whether `load` reads no file, so that workers are of no use."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether `read` waits for a network, so that many workers are of use."""
        ...

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """Name of an image inside its class, the same on every machine."""
        ...

    def size(self, position: int) -> int:
        """Bytes of an image's file, 0 where there is none."""
        ...

    def location(self, position: int) -> str:
        """Where an image lies, for messages."""
        ...

    def read(self, position: int) -> bytes:
        """Bytes of an image's file, or of a PNG where there is none; may raise a `BadImageError`."""
        ...

    def load(self, position: int) -> Image.Image:
        """Read one image as `decode_image` does; a `BadImageError` says why an image cannot be used."""
        ...

    def key(self, *, times: bool) -> str:
        """Hex digest of names and sizes, the same on every machine; with times it sees files rewritten."""
        ...


class ScannedFile(NamedTuple):
    """What a scan keeps of a file: name relative to the class folder, bytes, time of change in ns.

    In a bucket the time is a number of the file's version.
    """

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class FileList:
    """Files in a fixed order, in about 40 bytes each: 50 MB for the 1.28 million of ImageNet-1K.

    Args:
        names: uint8 [L], all names end to end.
        ends: int64 [n], where each name ends.
        sizes: int64 [n], bytes.
        mtimes_ns: int64 [n], times of change; equal ones where files have none.
    """

    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]
    mtimes_ns: NDArray[np.int64]

    @classmethod
    def of(cls, files: Iterable[ScannedFile]) -> FileList:
        """Pack a scan's files, in their order."""
        names, sizes, times = zip(*files, strict=True) if (files := list(files)) else ((), (), ())
        return cls(*pack_names(names), np.array(sizes, dtype=np.int64), np.array(times, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, position: int) -> ScannedFile:
        return ScannedFile(self.name(position), int(self.sizes[position]), int(self.mtimes_ns[position]))

    def name(self, position: int) -> str:
        """Name of the file at a position."""
        return unpack_name(self.names, self.ends, position)

    def part(self, start: int, stop: int) -> FileList:
        """The files of a range, sharing memory with this list."""
        first = int(self.ends[start - 1]) if start else 0
        last = int(self.ends[stop - 1]) if stop else 0
        part = slice(start, stop)
        return FileList(
            self.names[first:last], self.ends[part] - first, self.sizes[part], self.mtimes_ns[part]
        )

    def key(self, *, times: bool) -> str:
        """Hex sha256 over names, sizes and, if asked for, times of change."""
        digest = hashlib.sha256(self.names.tobytes())
        for column in (self.ends, self.sizes, *([self.mtimes_ns] if times else [])):
            digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()


def pack_names(names: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Lay names end to end: (uint8 [L], int64 [n] ends)."""
    encoded = [os.fsencode(name) for name in names]
    packed = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return packed, np.cumsum([len(name) for name in encoded], dtype=np.int64)


def unpack_name(names: NDArray[np.uint8], ends: NDArray[np.int64], position: int) -> str:
    """Read one of the names that `pack_names` packed."""
    start = int(ends[position - 1]) if position else 0
    return os.fsdecode(names[start : int(ends[position])].tobytes())


def sha256_of_lines(*lines: str) -> str:
    """Hex sha256 of lines that may hold names of files."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


class ListedImages(ABC):
    """The half of an `ImageSource` that a list of its files knows, in the order the class keeps."""

    in_memory = False
    is_remote = False

    def __init__(self, files: FileList) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def name(self, position: int) -> str:
        """Name of an image inside its class."""
        return self._files.name(position)

    def size(self, position: int) -> int:
        """Bytes of an image's file."""
        return int(self._files.sizes[position])

    def key(self, *, times: bool) -> str:
        """Hex sha256 over names, sizes and, if asked for, times of change."""
        return self._files.key(times=times)

    @abstractmethod
    def read(self, position: int) -> bytes:
        """Bytes of an image's file."""

    def load(self, position: int) -> Image.Image:
        """Read one image as `decode_image` does.

        Raises:
            BadImageError: The file is empty, truncated, corrupt, or too large, or a link that leads nowhere.
            OSError: The file cannot be read at all.
        """
        return decode_image(self.read(position))


class FileImages(ListedImages):
    """Image files of one folder, named by their paths relative to it, in the order the class keeps."""

    def __init__(self, folder: Path | RemotePath, files: Iterable[ScannedFile]) -> None:
        super().__init__(FileList.of(files))
        self.folder, self.is_remote = folder, isinstance(folder, RemotePath)

    def location(self, position: int) -> str:
        """Full path or URL of a file."""
        return str(self.folder / self.name(position))

    def read(self, position: int) -> bytes:
        """Bytes of one file.

        Raises:
            BadImageError: It is a link that leads nowhere.
            OSError: It cannot be read.
            UserError: The server does not give it.
        """
        path = self.folder / self.name(position)
        try:
            return path.read_bytes()
        except OSError:
            if isinstance(path, Path) and path.is_symlink() and not path.exists():
                raise BadImageError(f"the link leads nowhere, to {path.readlink()}") from None
            raise


class ArrayImages:
    """Images held in memory, named by their positions as five digits.

    Args:
        pixels: uint8 [n, H, W] (grey) or [n, H, W, 3] (RGB).

    Raises:
        ValueError: `pixels` has another type or shape.
    """

    in_memory = True
    is_remote = False

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
            raise ValueError(
                f"pixels must be uint8 [n, H, W] or [n, H, W, 3], got {pixels.dtype} {list(pixels.shape)}"
            )
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, position: int) -> str:
        """Position in the class, as five digits."""
        return f"{position:05d}"

    def size(self, position: int) -> int:
        """0: there is no file."""
        return 0

    def location(self, position: int) -> str:
        """The same as the name: there is no file."""
        return self.name(position)

    def read(self, position: int) -> bytes:
        """A PNG of one image."""
        buffer = io.BytesIO()
        Image.fromarray(self._pixels[position]).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    def load(self, position: int) -> Image.Image:
        """Copy one image out as RGB."""
        return Image.fromarray(self._pixels[position]).convert("RGB")

    def key(self, *, times: bool) -> str:
        """Hex sha256 over shape and pixels, which have no times."""
        digest = hashlib.sha256(str(self._pixels.shape).encode())
        digest.update(np.ascontiguousarray(self._pixels).tobytes())
        return digest.hexdigest()
