"""Where the images of one class come from: files of a folder, or arrays in memory.

Shape letters: n images, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.datasets.decoding import decode_image
from mgd3_fast.datasets.file_list import FileList, ScannedFile


class ImageSource(Protocol):
    """The images of one class, in a fixed order."""

    @property
    def in_memory(self) -> bool:
        """Whether `load` reads no file, so that workers are of no use."""
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

    def load(self, position: int) -> Image.Image:
        """Read one image at full size as RGB; a `BadImageError` says why an image cannot be used."""
        ...

    def content_key(self) -> str:
        """Hex digest of names and sizes; does not depend on the machine."""
        ...

    def cache_key(self) -> str:
        """Hex digest that also changes when a file is rewritten in place."""
        ...


class ListedImages:
    """The half of an `ImageSource` that a list of its files knows.

    Args:
        files: Names, sizes and times of change, in the order the class keeps.
    """

    in_memory = False

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

    def content_key(self) -> str:
        """Hex sha256 over names and sizes."""
        return self._files.content_key()

    def cache_key(self) -> str:
        """Hex sha256 over names, sizes and times of change."""
        return self._files.cache_key()


class FileImages(ListedImages):
    """Image files of one folder, named by their paths relative to it.

    Args:
        folder: The class folder.
        files: Its images, in the order the class keeps.
    """

    def __init__(self, folder: Path, files: Iterable[ScannedFile]) -> None:
        super().__init__(FileList.of(files))
        self.folder = folder

    def location(self, position: int) -> str:
        """Full path of a file."""
        return str(self.folder / self.name(position))

    def load(self, position: int) -> Image.Image:
        """Read one file as RGB.

        Args:
            position: 0..len-1.

        Returns:
            RGB image of the file's own size; EXIF orientation is ignored, as the authors' loader does.

        Raises:
            BadImageError: The file is empty, truncated, corrupt, or too large.
            OSError: The file cannot be read at all.
        """
        return decode_image((self.folder / self.name(position)).read_bytes())


class ArrayImages:
    """Images held in memory.

    Args:
        pixels: uint8 [n, H, W] (grey) or [n, H, W, 3] (RGB).

    Raises:
        ValueError: `pixels` has another type or shape.
    """

    in_memory = True

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

    def load(self, position: int) -> Image.Image:
        """Copy one image out as RGB."""
        return Image.fromarray(self._pixels[position]).convert("RGB")

    def content_key(self) -> str:
        """Hex sha256 over shape and pixels."""
        digest = hashlib.sha256(str(self._pixels.shape).encode())
        digest.update(np.ascontiguousarray(self._pixels).tobytes())
        return digest.hexdigest()

    def cache_key(self) -> str:
        """The same as `content_key`: pixels in memory have no other identity."""
        return self.content_key()
