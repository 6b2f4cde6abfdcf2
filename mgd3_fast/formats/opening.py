"""Finding images and labels: in a run by its manifest, in any folder of class folders by a class list."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mgd3_fast.datasets import BadImageError, decode_image, imagenet_classes
from mgd3_fast.datasets.scanning import class_folders, listed, scan_folder
from mgd3_fast.errors import UserError
from mgd3_fast.formats.class_list import built_in_list, class_list, list_hash
from mgd3_fast.formats.reading import read_ahead
from mgd3_fast.formats.source import Source, SourceImage, make_source
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.writers import WORK, read_manifest

_DIGITS = re.compile(r"(\d+)")
_NOT_FACTS = ("file", "label", "class", "sha256")


def open_source(folder: Path, dataset: str | None = None, progress: Progress = SILENT) -> Source:
    """Find images and labels.

    Args:
        folder: A folder that `distill` wrote, or any folder of class folders.
        dataset: Name or path of the dataset that gives the label order; needed where there is no manifest.
        progress: Receives a bar while files without recorded sha256 are read.

    Returns:
        The images. Those of a run have the sha256 of its manifest, to be compared when they are read.

    Raises:
        UserError: Not a folder, unfinished, an image missing, folders that are no classes, or labels unknown.
    """
    if not folder.is_dir():
        raise UserError(f"src must be an existing folder, got {folder}")
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        raise UserError(f"src must hold a manifest of this mgd3-fast or none: {error}") from None
    if manifest is not None:
        return _of_run(folder, manifest, dataset)
    if (folder / WORK).exists():
        raise UserError(
            f"src must be a finished run, got {folder}, where images are still to be made: distill it again"
        )
    if dataset is None:
        raise UserError(
            f"src must hold manifest.json, or --dataset name the class list of its folders, got {folder}"
        )
    return _of_folders(folder, dataset, progress)


def _of_run(folder: Path, manifest: dict[str, Any], dataset: str | None) -> Source:
    described = manifest["dataset"]
    name, digest = described["name"], described["class_list_hash"]
    names = _full_list(name, digest, described["classes_in_list"], manifest["classes"])
    images = [_image_of_run(folder, record) for record in manifest["images"]]
    labels = {image.label for image in images}
    if not labels <= set(range(len(names))):
        raise UserError(
            f"src must hold labels below {len(names)}, got {max(labels)} in the manifest of {folder}"
        )
    if dataset is not None and list_hash(class_list(dataset)[1]) != digest:
        raise UserError(f"dataset must be {name}, from which {folder} was made, or left out, got {dataset}")
    return make_source(folder, name, names, images, manifest)


def _full_list(
    name: str, expected_hash: str, count: int, classes: list[dict[str, Any]]
) -> tuple[str | None, ...]:
    built_in = built_in_list(name)
    if built_in is not None and list_hash(built_in) == expected_hash:
        return built_in
    known = {one["label"]: one["name"] for one in classes}
    return tuple(known.get(label) for label in range(count))


def _image_of_run(folder: Path, record: dict[str, Any]) -> SourceImage:
    file = PurePosixPath(record["file"])
    if file.is_absolute() or ".." in file.parts:
        raise UserError(f"src must hold images inside the folder, got {record['file']!r} in its manifest")
    path = folder / file
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"src must hold every image of its manifest, missing {path} (the distill command that wrote the"
            " folder makes it again)"
        ) from None
    facts = {name: value for name, value in record.items() if name not in _NOT_FACTS}
    return SourceImage(path, record["label"], record["class"], record["mode"], size, record["sha256"], facts)


def _of_folders(folder: Path, dataset: str, progress: Progress) -> Source:
    name, names = class_list(dataset)
    labels = _folders_by_label(folder, name, names, progress)
    images: list[SourceImage] = []
    found_files = [
        (label, index, path)
        for label in sorted(labels)
        for index, path in enumerate(_files(folder / labels[label]))
    ]
    with progress.stage("read", total=len(found_files), unit="img") as bar:
        for (label, index, path), (size, sha256) in read_ahead(found_files, lambda one: _measure(one[2])):
            facts = {"original": path.relative_to(folder).as_posix()}
            images.append(SourceImage(path, label, names[label], index, size, sha256, facts))
            bar.advance()
    return make_source(folder, name, names, images)


def _folders_by_label(folder: Path, name: str, names: tuple[str, ...], progress: Progress) -> dict[int, str]:
    labels: dict[int, str] = {}
    others = 0
    # An ILSVRC tree may be given for a part of its classes; any other folder that is no class is a mistake.
    wnids = set(imagenet_classes("imagenet1k"))
    other_wnids = wnids - set(names) if wnids.issuperset(names) else set()
    for found in class_folders(folder):
        label = _label_of(found, names)
        if label is None and found in other_wnids:
            others += 1
        elif label is None:
            raise UserError(
                f"src must hold folders named as the classes of {name} ({listed(names)}) or by their labels,"
                f" got {found!r} in {folder}"
            )
        elif label in labels:
            raise UserError(f"src must hold each class once, got {labels[label]!r} and {found!r} in {folder}")
        else:
            labels[label] = found
    if not labels:
        raise UserError(f"src must hold one folder of images per class of {name}, got none in {folder}")
    if others or len(labels) < len(names):
        left_out = f", {others} folders of other classes left out" if others else ""
        progress.note(f"{len(labels)} of the {len(names)} classes of {name}{left_out}")
    return labels


def _label_of(folder: str, names: tuple[str, ...]) -> int | None:
    """A class name wins over a label in decimal digits."""
    if folder in names:
        return names.index(folder)
    return int(folder) if folder.isdecimal() and int(folder) < len(names) else None


def _files(folder: Path) -> list[Path]:
    """Image files, 2.png before 10.png."""
    images = scan_folder(folder)
    names = [images.name(place) for place in range(len(images))]
    if not names:
        raise UserError(f"src must hold images in every class folder, got none in {folder}")
    return [folder / name for name in sorted(names, key=_natural)]


def _natural(name: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name


def _measure(path: Path) -> tuple[int, str]:
    content = path.read_bytes()
    try:
        decode_image(content)
    except BadImageError as error:
        raise UserError(f"src must hold readable images, got {path}: {error}") from None
    return len(content), hashlib.sha256(content).hexdigest()
