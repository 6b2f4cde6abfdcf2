"""PNG encoding and atomic writing on worker threads, so that the sampler does not wait for files."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mgd3_engine.files.renaming import named
from mgd3_fast.writers.work_queue import WorkQueue

WORKERS = 4
QUEUE_LENGTH = 64  # images waiting to be written; the sampler pauses when files are slower than it is


class PngWriter(WorkQueue):
    """Writes images to temporary names and renames them when they are whole.

    Args:
        folder: Output folder; class folders are made in it as needed.
        temporary: Folder on the same file system for unfinished files.
        done: Called with (image number, sha256 of the file) once a file has its final name, one at a time.
    """

    def __init__(self, folder: Path, temporary: Path, done: Callable[[int, str], None]) -> None:
        super().__init__("png", WORKERS, QUEUE_LENGTH)
        self._folder, self._temporary, self._done = folder, temporary, done
        self._reporting = threading.Lock()

    def put(self, image: int, file: str, pixels: np.ndarray) -> None:
        """Queue one image.

        Args:
            image: Image number, handed to `done`.
            file: Path relative to the output folder.
            pixels: uint8 [H, W, 3].

        Raises:
            OSError: If an earlier image could not be written.
        """
        self.add(self._write, image, file, pixels)

    def _write(self, image: int, file: str, pixels: np.ndarray) -> None:
        sha256 = write_png(self._folder / file, pixels, self._temporary / f"{image}.png")
        with self._reporting:
            self._done(image, sha256)


def write_png(target: Path, pixels: np.ndarray, temporary: Path) -> str:
    """Write one PNG file, which appears under its name only when it is whole, and return its sha256.

    Args:
        target: Final path; its folder is made if missing.
        pixels: uint8 [H, W, 3].
        temporary: Path on the same file system for the unfinished file.
    """
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    content = encoded.getvalue()
    target.parent.mkdir(exist_ok=True)
    with named(target):
        temporary.write_bytes(content)
    temporary.replace(target)
    return hashlib.sha256(content).hexdigest()
