"""Distilled folders: which files show which class of a dataset.

Labels come from class names, through the manifest where there is one, never from the order of folders alone:
a wrong order is what most often makes a published set score at chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgd3_fast.datasets import Dataset, decode_image
from mgd3_fast.datasets.scanning import class_folders, listed, scan_folder
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.images import StoredImage
from mgd3_fast.writers import WORK, read_manifest


@dataclass(frozen=True)
class DistilledFolder:
    """Images of every class, equally many.

    Args:
        path: The folder.
        name: What it is called in results.
        ipc: Images of each class.
        images: Class after class in label order, by file name within a class.
        manifest: Content of its `manifest.json`, or None.
    """

    path: Path
    name: str
    ipc: int
    images: tuple[StoredImage, ...]
    manifest: dict[str, Any] | None


def read_folder(path: Path, dataset: Dataset, ipc: int | None = None) -> DistilledFolder:
    """Find the images of a folder's classes.

    Args:
        path: A folder written by `distill`, or any folder of class folders: named as the dataset's classes,
            or by their labels (00000, 00001, ...).
        dataset: Gives the classes and their order.
        ipc: Take only the first so many images of each class, in the order of file names (0, 1, 10, 2, ...),
            as the authors' code does; all by default.

    Returns:
        The images with labels 0, 1, ... in the dataset's order.

    Raises:
        UserError: Not a folder, unfinished, a class is missing, unknown or named twice, or classes have
            different numbers of images.
    """
    if not path.is_dir():
        raise UserError(f"folders must be existing folders, got {path}")
    manifest = _manifest_of(path)
    if manifest is None and (path / WORK).exists():
        raise UserError(f"{path} must be a finished run, got one with images missing: distill it again")
    folders = _folders_of_classes(path, dataset, manifest)
    images: list[StoredImage] = []
    counts: dict[str, int] = {}
    for label, cls in enumerate(dataset.classes):
        files = scan_folder(path / folders[cls.name])
        names = sorted(files.name(place) for place in range(len(files)))
        counts[cls.name] = len(names)
        for name in names[:ipc]:
            images.append(_stored(label, path / folders[cls.name] / name))
    return DistilledFolder(
        path, path.resolve().name, _equal_count(path, counts, ipc), tuple(images), manifest
    )


def distinct_names(folders: Sequence[DistilledFolder]) -> list[str]:
    """What folders are called side by side.

    Args:
        folders: In any order.

    Returns:
        Last parts of the paths, or the paths where two are the same; a number where even these are.
    """
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder.path) for folder in folders]
    counts = {name: names.count(name) for name in names}
    return [name if counts[name] == 1 else f"{name} #{place}" for place, name in enumerate(names, 1)]


def _manifest_of(path: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(path)
    except UserError as error:
        raise UserError(
            f"{path} must hold a manifest.json of this version of mgd3-fast or none: {error}"
        ) from None


def _folders_of_classes(path: Path, dataset: Dataset, manifest: dict[str, Any] | None) -> dict[str, str]:
    """Folder name of every class of the dataset."""
    if manifest is not None:
        found = {one["name"]: one["folder"] for one in manifest["classes"]}
    else:
        found = {}
        for folder in class_folders(path):
            name = _class_of(folder, dataset)
            if name in found:
                raise UserError(
                    f"{path} must hold each class once, got {found[name]} and {folder} for {name}"
                )
            found[name] = folder
    wanted = dataset.class_names
    unknown = [name for name in found if name not in wanted]
    missing = [name for name in wanted if name not in found or not (path / found[name]).is_dir()]
    if not found or len(unknown) == len(found):
        got = listed(unknown) or "no folders"
        raise UserError(
            f"{path} must hold folders named as the classes of {dataset.name} ({listed(wanted)}), got {got}"
        )
    if missing:
        raise UserError(
            f"{path} must hold every class of {dataset.name}, missing {listed(missing)}"
            " (--classes takes a part of the list)"
        )
    if unknown:
        raise UserError(f"{path} must hold classes of {dataset.name} alone, unknown {listed(unknown)}")
    return found


def _class_of(folder: str, dataset: Dataset) -> str:
    """A class's name from a folder's: the name itself, or the label in decimal digits."""
    names = dataset.all_class_names
    if folder in names or not folder.isdecimal() or int(folder) >= len(names):
        return folder
    return names[int(folder)]


def _equal_count(path: Path, counts: dict[str, int], ipc: int | None) -> int:
    """Images per class; refuses unequal and too few ones."""
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if ipc is not None and counts[least] < ipc:
        raise UserError(
            f"ipc must be at most {counts[least]}, the images of class {least} in {path}, got {ipc}"
        )
    if counts[least] == 0:
        raise UserError(f"{path} must hold images of every class, got none of {least}")
    if ipc is None and counts[least] != counts[most]:
        raise UserError(
            f"{path} must hold equally many images of every class, got {counts[least]} of {least} and"
            f" {counts[most]} of {most} (--ipc takes the first so many)"
        )
    return ipc or counts[least]


def _stored(label: int, file: Path) -> StoredImage:
    return StoredImage(label, lambda: decode_image(file.read_bytes()), str(file))
