"""PNG encoding and atomic writing on worker threads, so that the sampler does not wait for files."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from mgd3_engine.files.renaming import named

WORKERS = 4
QUEUE_LENGTH = 64  # images waiting to be written; the sampler pauses when files are slower than it is


class PngWriter:
    """Writes images to temporary names and renames them when they are whole.

    Args:
        folder: Output folder; class folders are made in it as needed.
        temporary: Folder on the same file system for unfinished files.
        done: Called with (image number, sha256 of the file) once a file has its final name, one at a time.
        image_size: Side that square images are resized to (Pillow, bicubic); None leaves them.
    """

    def __init__(
        self,
        folder: Path,
        temporary: Path,
        done: Callable[[int, str], None],
        *,
        image_size: int | None = None,
    ) -> None:
        self._folder, self._temporary, self._done = folder, temporary, done
        self._image_size = image_size
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="png")
        self._free = threading.BoundedSemaphore(QUEUE_LENGTH)
        self._reporting = threading.Lock()
        self._error: BaseException | None = None
        self.waited_s = 0.0

    def put(self, image: int, file: str, pixels: np.ndarray) -> None:
        """Queue one image.

        Args:
            image: Image number, handed to `done`.
            file: Path relative to the output folder.
            pixels: uint8 [H, W, 3].

        Raises:
            OSError: If an earlier image could not be written.
        """
        started = time.perf_counter()
        self._free.acquire()
        self.waited_s += time.perf_counter() - started
        if self._error is not None:
            self._free.release()
            raise self._error
        self._pool.submit(self._write, image, file, pixels)

    def close(self) -> None:
        """Wait until everything queued is written.

        Raises:
            OSError: If an image could not be written.
        """
        started = time.perf_counter()
        self._pool.shutdown(wait=True)
        self.waited_s += time.perf_counter() - started
        if self._error is not None:
            raise self._error

    def __enter__(self) -> PngWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._pool.shutdown(wait=True)  # what is queued is finished work: keep it

    def _write(self, image: int, file: str, pixels: np.ndarray) -> None:
        try:
            if self._error is None:
                if self._image_size is not None:
                    side = (self._image_size, self._image_size)
                    pixels = np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC))
                sha256 = write_png(self._folder / file, pixels, self._temporary / f"{image}.png")
                with self._reporting:
                    self._done(image, sha256)
        except BaseException as error:
            self._error = error
        finally:
            self._free.release()


def write_png(target: Path, pixels: np.ndarray, temporary: Path) -> str:
    """Write one PNG file; it appears under its name only when it is whole.

    Args:
        target: Final path; its folder is made if missing.
        pixels: uint8 [H, W, 3].
        temporary: Path on the same file system for the unfinished file.

    Returns:
        sha256 of the file's bytes.
    """
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    content = encoded.getvalue()
    target.parent.mkdir(exist_ok=True)
    with named(target):
        temporary.write_bytes(content)
    temporary.replace(target)
    return hashlib.sha256(content).hexdigest()
