"""PNG encoding and atomic writing on worker threads, so that the sampler does not wait for files."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from mgd3_engine.files.renaming import named

Self = TypeVar("Self", bound="WorkQueue")

WORKERS = 4
QUEUE_LENGTH = 64  # images waiting to be written; the sampler pauses when files are slower than it is


class WorkQueue:
    """A few threads that do what is added, in its order; nothing more is begun after an error.

    Args:
        name: Of the threads.
        threads: How many.
        most: Pieces of work that may be unfinished; adding another one waits.
    """

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threading.BoundedSemaphore(most)
        self._error: BaseException | None = None

    def add(self, work: Callable[..., object], *arguments: Any) -> Future[None]:
        """Queue a piece of work.

        Returns:
            What is over once it is done, or passed over; never with an error, which `check` raises.

        Raises:
            BaseException: Whatever an earlier piece raised.
        """
        self._free.acquire()
        if self._error is not None:
            self._free.release()
            raise self._error
        return self._pool.submit(self._do, work, arguments)

    def check(self) -> None:
        """Raise whatever a piece of work raised."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until everything is done.

        Raises:
            BaseException: Whatever a piece raised.
        """
        self._pool.shutdown(wait=True)
        self.check()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._pool.shutdown(wait=True)  # what is queued is finished work: keep it

    def _do(self, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            if self._error is None:
                work(*arguments)
        except BaseException as error:
            self._error = error
        finally:
            self._free.release()


class PngWriter(WorkQueue):
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
        super().__init__("png", WORKERS, QUEUE_LENGTH)
        self._folder, self._temporary, self._done = folder, temporary, done
        self._image_size = image_size
        self._reporting = threading.Lock()

    def put(self, image: int, file: str, pixels: np.ndarray) -> Future[None]:
        """Queue one image; see `add`.

        Args:
            image: Image number, handed to `done`.
            file: Path relative to the output folder.
            pixels: uint8 [H, W, 3].

        Raises:
            OSError: If an earlier image could not be written.
        """
        return self.add(self._write, image, file, pixels)

    def _write(self, image: int, file: str, pixels: np.ndarray) -> None:
        if self._image_size is not None:
            side = (self._image_size, self._image_size)
            pixels = np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC))
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
