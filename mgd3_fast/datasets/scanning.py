"""Find image files under class folders, in sorted order, with one stat a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mgd3_fast.datasets.dataset import ImageClass
from mgd3_fast.datasets.file_list import ScannedFile
from mgd3_fast.datasets.images import FileImages
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# Listing a million files waits for the file system, not for the processor.
_SCAN_THREADS = 8
_MIN_CLASSES_FOR_BAR = 100


def class_folders(root: Path) -> list[str]:
    """Names of the visible folders inside `root`, sorted."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def scan_classes(
    root: Path, names: Sequence[str], labels: Sequence[int], progress: Progress = SILENT
) -> tuple[ImageClass, ...]:
    """List the images of some class folders.

    Args:
        root: Folder that holds them.
        names: The full class list, in label order; folder names.
        labels: Which of them to scan.
        progress: Where the bar goes.

    Returns:
        One class per label, images sorted by relative name; folders inside a class folder are included.

    Raises:
        UserError: A folder is missing, or holds no image.
    """
    present = set(class_folders(root))
    missing = [names[label] for label in labels if names[label] not in present]
    if missing:
        raise UserError(f"{root} must hold a folder for each class, missing {listed(missing)}")
    classes: list[ImageClass] = []
    if len(labels) < _MIN_CLASSES_FOR_BAR:
        progress = SILENT
    with (
        ThreadPoolExecutor(_SCAN_THREADS) as pool,
        progress.stage("scan", total=len(labels), unit="class") as bar,
    ):
        for label, images in zip(
            labels, pool.map(lambda i: scan_folder(root / names[i]), labels), strict=True
        ):
            classes.append(ImageClass(names[label], label, images))
            bar.advance()
    empty = [cls.name for cls in classes if not len(cls)]
    if empty:
        suffixes = " ".join(IMAGE_SUFFIXES)
        raise UserError(f"class folders in {root} must hold images ({suffixes}), empty: {listed(empty)}")
    return tuple(classes)


def scan_folder(folder: Path) -> FileImages:
    """List the images of one class folder, sorted by relative name."""
    return FileImages(folder, sorted(_image_files(str(folder), "")))


def _image_files(folder: str, prefix: str) -> Iterator[ScannedFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _image_files(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    yield ScannedFile(prefix + entry.name, found.st_size, found.st_mtime_ns)


def listed(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
