"""Any ImageFolder: one folder per class, classes sorted by name."""

from __future__ import annotations

from pathlib import Path

from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.scanning import class_folders, scan_classes
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress

_SPLIT_FOLDERS = {
    "train": ("train",),
    "val": ("val", "validation", "test"),
    "test": ("test", "val", "validation"),
}
_ALL_SPLIT_FOLDERS = {folder for folders in _SPLIT_FOLDERS.values() for folder in folders}


def open_image_folder(
    root: Path, classes: str | None = None, split: str = "train", progress: Progress = SILENT
) -> Dataset:
    """Open a folder of class folders, or a folder whose train/ and val/ are such folders.

    Args:
        root: The folder. It is taken as split into train/ and val/ when it holds nothing but these.
        classes: Selector of `--classes`; all by default.
        split: "train", "val" or "test".
        progress: Where the bar goes.

    Returns:
        Classes labelled in sorted order of their folder names.

    Raises:
        UserError: No such folder, no class folders, an empty one, or no such split.
    """
    if split not in _SPLIT_FOLDERS:
        raise UserError(f"split must be one of {', '.join(_SPLIT_FOLDERS)}, got {split!r}")
    if not root.is_dir():
        raise UserError(f"dataset must be an existing folder, got {root}")
    folders = class_folders(root)
    name = root.resolve().name
    if folders and set(folders) <= _ALL_SPLIT_FOLDERS:
        present = [folder for folder in _SPLIT_FOLDERS[split] if folder in folders]
        if not present:
            raise UserError(f"{root} must hold {_SPLIT_FOLDERS[split][0]}/ for split {split}, got {folders}")
        root = root / present[0]
        folders = class_folders(root)
    elif split != "train":
        raise UserError(f"{root} must hold {split}/ for split {split}, but its folders are classes")
    if not folders:
        raise UserError(f"{root} must hold one folder per class, got none")
    labels = list(range(len(folders))) if classes is None else select_classes(classes, folders)
    found = scan_classes(root, folders, labels, progress)
    return Dataset(name, found, tuple(folders), split, str(root))
