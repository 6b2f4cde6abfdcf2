"""Any ImageFolder: one folder per class, classes sorted by name, one stat a file."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mgd3_fast.datasets.batches import run_ahead
from mgd3_fast.datasets.dataset import Dataset, ImageClass
from mgd3_fast.datasets.images import FileImages, ScannedFile
from mgd3_fast.datasets.selector import matched, order_notes, select_classes
from mgd3_fast.errors import UserError, listed
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.remote_path import RemotePath

# Those of torchvision's ImageFolder. Of several images with one WebDataset key the first of these is taken.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

_SPLIT_FOLDERS = {
    "train": ("train",),
    "val": ("val", "validation", "test"),
    "test": ("test", "val", "validation"),
    "validation": ("validation", "val"),
}
_ALL_SPLIT_FOLDERS = {folder for folders in _SPLIT_FOLDERS.values() for folder in folders}

# Listing a million files waits for the file system, not for the processor.
_SCAN_THREADS = 8
_MIN_CLASSES_FOR_BAR = 100


def open_image_folder(
    root: Path | RemotePath, classes: str | None = None, split: str = "train", progress: Progress = SILENT
) -> Dataset:
    """Open a folder of class folders, or a folder whose train/ and val/ are such folders.

    Args:
        root: The folder. It is taken as split into train/ and val/ when it holds nothing but these, or a
            folder called as the split is. Classes are then those of train/; one of val/ has its name in
            train/ where these differ in Unicode's normalisation alone.
        classes: Selector of `--classes`; all by default.
        split: "train", "val", "test", "validation", or the name of a folder in `root`. Of test/ and val/, the
            first with folders of classes is the test split.
        progress: Where the bar goes.

    Returns:
        Classes labelled in sorted order of their names.

    Raises:
        UserError: No such folder, no class folders, a missing or an empty one, or no such split.
    """
    if not root.is_dir():
        raise UserError(f"dataset must be an existing folder, got {root}")
    name, folders = root.resolve().name, class_folders(root)
    opened = _Split(root, split, {folder: folder for folder in folders}, folders, [])
    named = split in folders and split not in _SPLIT_FOLDERS  # "train" may be a class
    if folders and (set(folders) <= _ALL_SPLIT_FOLDERS or named):
        opened = _open_split(root, folders, split)
    elif split != "train":
        raise UserError(f"{root} must hold {split}/ for split {split}, but its folders are classes")
    if not opened.folders:
        raise UserError(f"{root} must hold one folder per class, got none")
    names = opened.class_names
    labels = [label for label, name in enumerate(names) if name in opened.folders]
    if classes is not None:
        labels = select_classes(classes, names)
    found, notes = scan_classes(opened.root, names, labels, progress, opened.folders)
    notes = [*order_notes(names), *_dangling_notes(opened.root), *opened.notes, *notes]
    return Dataset(name, found, tuple(names), opened.name, str(opened.root), notes)


class _Split(NamedTuple):
    """The folder that a split is read from, and what the split is called.

    Args:
        root: Folder of the class folders.
        name: Of the split.
        folders: Folders inside `root` by class name.
        class_names: All classes in label order.
        notes: What was left out to come here.
    """

    root: Path | RemotePath
    name: str
    folders: dict[str, str]
    class_names: list[str]
    notes: list[str]


def _open_split(root: Path | RemotePath, folders: Sequence[str], split: str) -> _Split:
    """Choose the first folder of a split that has labels: class folders, called as those of train/."""
    wanted = _SPLIT_FOLDERS.get(split, (split,))
    present = [folder for folder in wanted if folder in folders]
    if not present:
        raise UserError(f"{root} must hold {wanted[0]}/ for split {split}, got {listed(folders)}")
    of_train = class_folders(root / "train") if "train" in folders else []
    notes: list[str] = []
    for folder in present:
        inside = class_folders(root / folder)
        spelled = matched(inside, of_train)
        by_name = {spelled.get(one, one): one for one in inside}
        names = of_train or sorted(by_name)
        strays = sorted(by_name.keys() - set(names))
        if len(strays) < len(by_name):
            if strays:
                notes.append(
                    f"{folder}/ has folders that train/ has not, which are left out: {listed(strays)}"
                )
            if lacking := [name for name in names if name not in by_name]:
                notes.append(f"{folder}/ has no images of {listed(lacking)}, which train/ has")
            return _Split(root / folder, split if folder == present[0] else folder, by_name, names, notes)
        notes.append(f"{folder}/ has no folder named as a class: its images are unlabelled and not read")
    named = f" named as those of train/ ({listed(of_train)})" if of_train else ""
    raise UserError(
        f"{root / present[0]} must hold one folder per class{named}, got {listed(inside) or 'none'}"
    )


def class_folders(root: Path | RemotePath) -> list[str]:
    """Names of the visible folders inside `root`, sorted."""
    if isinstance(root, RemotePath):
        return root.folders()
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))


def scan_classes(
    root: Path | RemotePath,
    names: Sequence[str],
    labels: Sequence[int],
    progress: Progress = SILENT,
    folders: Mapping[str, str] | None = None,
) -> tuple[tuple[ImageClass, ...], list[str]]:
    """List the images of some class folders, those of folders inside them included, by relative name.

    Args:
        root: Folder that holds them.
        names: The full class list, in label order.
        labels: Which of them to scan.
        progress: Where the bar goes.
        folders: Folder of each class; that of its name by default.

    Returns:
        One class per label; and a note where files were left out.

    Raises:
        UserError: A folder is missing, or holds no image.
    """
    folders = {name: name for name in class_folders(root)} if folders is None else folders
    missing = [names[label] for label in labels if names[label] not in folders]
    if missing:
        raise UserError(f"{root} must hold a folder for each class, missing {listed(missing)}")
    if len(labels) < _MIN_CLASSES_FOR_BAR:
        progress = SILENT
    classes: list[ImageClass] = []
    left_out: Counter[str] = Counter()
    jobs = (partial(scan_folder, root / folders[names[label]]) for label in labels)
    with progress.stage("scan", total=len(labels), unit="class") as bar:
        scanned = run_ahead(jobs, _SCAN_THREADS, 2 * _SCAN_THREADS)
        for label, (images, others) in zip(labels, scanned, strict=True):
            classes.append(ImageClass(names[label], label, images))
            left_out += others
            bar.advance()
    notes = left_out_notes(left_out)
    empty = [cls.name for cls in classes if not len(cls)]
    if empty:
        raise UserError(
            f"class folders in {root} must hold images ({' '.join(IMAGE_SUFFIXES)}), empty: {listed(empty)}"
            + "".join(f"; {note}" for note in notes)
        )
    return tuple(classes), notes


def scan_folder(folder: Path | RemotePath) -> tuple[FileImages, Counter[str]]:
    """List the images of one class folder, sorted by relative name, and count other files by suffix."""
    left_out: Counter[str] = Counter()
    if isinstance(folder, RemotePath):
        found = _remote_image_files(folder, left_out)
    else:
        found = _image_files(str(folder), "", left_out)
    return FileImages(folder, sorted(found)), left_out


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def suffix_of(name: str) -> str:
    """What a file that is no image is counted under."""
    return Path(name).suffix.lower() or "without suffix"


def left_out_notes(left_out: Mapping[str, int]) -> list[str]:
    """One line that counts files that are no images by suffix, or none: "12 files were left out: 10 .txt"."""
    if not left_out:
        return []
    count = sum(left_out.values())
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    files = "1 file was" if count == 1 else f"{count:,} files were"
    return [f"{files} left out: {listed(f'{times:,} {suffix}' for suffix, times in kinds)}"]


def _dangling_notes(root: Path | RemotePath) -> list[str]:
    """A note where class folders may be missing."""
    if isinstance(root, RemotePath):
        return []
    with os.scandir(root) as entries:
        links = [Path(entry) for entry in entries if entry.is_symlink() and not entry.name.startswith(".")]
    dangling = sorted(link.name for link in links if not link.exists())
    if not dangling:
        return []
    several = f"{len(dangling):,} links that lead nowhere are no classes"
    what = "1 link that leads nowhere is no class" if len(dangling) == 1 else several
    return [f"{what}: {listed(dangling)}"]


def _remote_image_files(folder: RemotePath, left_out: Counter[str]) -> Iterator[ScannedFile]:
    for file in folder.files():
        if is_image(file.name):
            yield ScannedFile(*file)
        else:
            left_out[suffix_of(file.name)] += 1


def _image_files(folder: str, prefix: str, left_out: Counter[str]) -> Iterator[ScannedFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if not (entry.is_symlink() and Path(folder).resolve().is_relative_to(Path(entry).resolve())):
                    yield from _image_files(entry.path, f"{prefix}{entry.name}/", left_out)
            elif not is_image(entry.name):
                left_out[suffix_of(entry.name)] += 1
            elif entry.is_symlink() and not Path(entry).exists():
                # A bad image, which the rule for bad images decides about when it is read.
                yield ScannedFile(prefix + entry.name, 0, 0)
            else:
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    yield ScannedFile(prefix + entry.name, found.st_size, found.st_mtime_ns)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one; the system is only asked about links."""
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()
