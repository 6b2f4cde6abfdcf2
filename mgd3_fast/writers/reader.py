"""The one reader of finished runs, and of any folder with one folder of images per class.

Labels come from the manifest or from a class list by the names of folders, never from the order of folders
alone: a wrong order is what most often makes a published set score at chance.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mgd3_fast.datasets import Dataset, Framing, run_ahead
from mgd3_fast.datasets.class_list import built_in_list, class_list
from mgd3_fast.datasets.dataset import list_hash
from mgd3_fast.datasets.folders import class_folders, left_out_notes, scan_folder
from mgd3_fast.datasets.selector import matched
from mgd3_fast.errors import UserError
from mgd3_fast.progress import Progress
from mgd3_fast.writers.class_folders import every_class, some_classes
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage
from mgd3_fast.writers.manifest import read_manifest
from mgd3_fast.writers.run_folder import WORK

Value = TypeVar("Value")

_READERS = 4
_READ_AHEAD = 64  # images that are read but not yet taken
_DIGITS = re.compile(r"(\d+)")
_NOT_FACTS = ("file", "label", "class", "sha256")


def read_run(path: Path, option: str) -> LabelledFolder:
    """Read what a finished run's manifest lists, with its sha256; no image is touched.

    Args:
        path: A folder that `distill` wrote.
        option: What the folder was given as, for messages.

    Raises:
        UserError: There is no finished run of this version, or its manifest names what cannot be.
    """
    manifest = _finished_manifest(path, option)
    if not manifest:
        raise UserError(f"{option} must hold a finished run of distill, got no manifest.json in {path}")
    return _of_manifest(path, manifest)


def read_classes(path: Path, dataset: Dataset, option: str, ipc: int | None = None) -> LabelledFolder:
    """Read every class of a dataset from a run or a folder of class folders.

    Args:
        path: A folder that `distill` wrote, or one whose folders are named as the dataset's classes or by
            their labels (00000, 00001, ...).
        dataset: Gives the classes and their labels.
        option: What the folder was given as, for messages.
        ipc: Take only the first so many images of each class; all by default.

    Returns:
        The images in the folders of the classes, equally many of each, in the order of file names
        (0, 1, 10, 2, ...), as the authors' code takes them; with what the manifest says about them, if any.

    Raises:
        UserError: Not a folder, unfinished, a class is missing, empty, unknown or there twice, or classes
            have different numbers of images.
    """
    manifest = _finished_manifest(path, option)
    recorded_folders = {one["name"]: _inside(one["folder"], path) for one in manifest.get("classes", ())}
    found = every_class(path, dataset, recorded_folders, option)
    recorded = {record["file"]: record for record in manifest.get("images", ())}
    left_out: Counter[str] = Counter()
    images = [
        image
        for cls in dataset.classes
        for image in _scanned(path, found[cls.name], cls.label, cls.name, recorded, left_out)
    ]
    notes = tuple(left_out_notes(left_out))
    folder = LabelledFolder(path, dataset.name, dataset.all_class_names, tuple(images), manifest, notes)
    if ipc is not None:
        return folder.first(ipc)
    folder.check_even()
    return folder


def read_labelled(path: Path, dataset: str | None, option: str, progress: Progress) -> LabelledFolder:
    """Read a run, or whatever classes of a list a folder of class folders holds.

    Folders of other ImageNet classes are left out, so that a list's classes can be taken from a whole tree.

    Args:
        path: A folder that `distill` wrote, or one whose folders are named as classes or by their labels.
        dataset: Name or path of the dataset that gives the class list, where there is no manifest.
        option: What the folder was given as, for messages.
        progress: Receives a bar while files without recorded sha256 are read, and which classes there are.

    Returns:
        The images with their sha256; those without manifest are numbered by file name, with numbers as
        numbers (2.png before 10.png).

    Raises:
        UserError: Not a folder, unfinished, an image missing or damaged, folders that are no classes, or
            labels unknown.
    """
    manifest = _finished_manifest(path, option)
    if not manifest:
        if dataset is None:
            raise UserError(
                f"{option} must hold manifest.json, or --dataset name the class list of its folders,"
                f" got {path}"
            )
        return _of_class_folders(path, dataset, option, progress)
    run, digest = _of_manifest(path, manifest), manifest["dataset"]["class_list_hash"]
    if dataset is not None and list_hash(class_list(dataset)[1]) != digest:
        raise UserError(
            f"dataset must be {run.dataset}, from which {path} was made, or left out, got {dataset}"
        )
    run.check_files()
    return run


def recorded_framings(folders: Sequence[Path | str], option: str) -> dict[str, Framing]:
    """How the images of finished runs became RGB and square, by their folders; other folders tell nothing.

    Raises:
        UserError: A folder is none, or an unfinished run.
    """
    manifests = {str(path): _finished_manifest(Path(path), option) for path in folders}
    return {name: Framing.recorded(found["settings"]) for name, found in manifests.items() if found}


def read_ahead(images: Sequence[LabelledImage], read: Callable[[LabelledImage], Value]) -> Iterator[Value]:
    """Read images side by side, and hand out in their order what was read.

    Args:
        images: The images.
        read: Reads one; runs on worker threads.

    Yields:
        What it returned for each.
    """
    return run_ahead((partial(read, image) for image in images), _READERS, _READ_AHEAD)


def _finished_manifest(path: Path, option: str) -> dict[str, Any]:
    """The manifest of a folder; empty for one that is no run."""
    if not path.is_dir():
        raise UserError(f"{option} must be an existing folder, got {path}")
    try:
        manifest = read_manifest(path)
    except UserError as error:
        raise UserError(f"{option} must hold a manifest of this mgd3-fast or none: {error}") from None
    if manifest is None and (path / WORK).exists():
        raise UserError(
            f"{option} must be a finished run, got {path}, whose images are not all made: give its distill"
            " command again"
        )
    return _as_on_disk(path, manifest or {})


def _as_on_disk(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the folders of classes as they are spelled now: a copy may spell accents otherwise."""
    recorded = {_inside(one["folder"], path) for one in manifest.get("classes", ())}
    on_disk = matched(recorded, class_folders(path)) if recorded else {}
    if all(folder == found for folder, found in on_disk.items()):
        return manifest

    def respelled(file: str) -> str:
        folder, slash, name = file.partition("/")
        return on_disk.get(folder, folder) + slash + name

    classes = [{**one, "folder": respelled(one["folder"])} for one in manifest["classes"]]
    images = [{**one, "file": respelled(one["file"])} for one in manifest["images"]]
    return {**manifest, "classes": classes, "images": images}


def _of_manifest(path: Path, manifest: dict[str, Any]) -> LabelledFolder:
    described = manifest["dataset"]
    names = _full_list(described, manifest["classes"])
    images = [recorded_image(path, record) for record in manifest["images"]]
    images.sort(key=lambda image: (image.label, image.index))
    listed, held = {one["name"] for one in manifest["classes"]}, {image.class_name for image in images}
    if listed != held:
        raise UserError(
            f"the manifest of {path} is damaged: its classes and its images do not agree on class"
            f" {min(listed ^ held)!r}"
        )
    for image in (images[0], images[-1]):
        if not 0 <= image.label < len(names):
            raise UserError(
                f"labels must be 0 to {len(names) - 1}, got {image.label} in the manifest of {path}"
            )
    return LabelledFolder(path, described["name"], names, tuple(images), manifest)


def _full_list(described: Mapping[str, Any], classes: list[dict[str, Any]]) -> tuple[str | None, ...]:
    built_in = built_in_list(described["name"])
    if built_in is not None and list_hash(built_in) == described["class_list_hash"]:
        return built_in
    known = {one["label"]: one["name"] for one in classes}
    return tuple(known.get(label) for label in range(described["classes_in_list"]))


def recorded_image(path: Path, record: Mapping[str, Any]) -> LabelledImage:
    """The image of a record of a manifest."""
    name = record["class"]
    if PurePosixPath(name).name != name or name.startswith("."):
        raise UserError(f"class names must be names of visible folders, got {name!r} in {path}")
    facts = {key: value for key, value in record.items() if key not in _NOT_FACTS}
    file = path / _inside(record["file"], path)
    return LabelledImage(file, record["label"], name, record["mode"], record["sha256"], facts)


def _inside(name: str, path: Path) -> str:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"images must lie inside their folder, got {name!r} in the manifest of {path}")
    return name


def _of_class_folders(path: Path, dataset: str, option: str, progress: Progress) -> LabelledFolder:
    name, names = class_list(dataset)
    found = some_classes(path, name, names, option, progress)
    left_out: Counter[str] = Counter()
    images = [
        image
        for label, class_name in enumerate(names)
        if class_name in found
        for image in _scanned(path, found[class_name], label, class_name, {}, left_out, _natural)
    ]
    for note in left_out_notes(left_out):
        progress.note(note)
    with progress.stage("read", total=len(images), unit="img") as bar:
        for place, digest in enumerate(read_ahead(images, _digest)):
            images[place] = replace(images[place], sha256=digest)
            bar.advance()
    return LabelledFolder(path, name, names, tuple(images))


def _scanned(
    path: Path,
    folder: str,
    label: int,
    class_name: str,
    recorded: Mapping[str, Mapping[str, Any]],
    left_out: Counter[str],
    key: Callable[[str], Any] | None = None,
) -> Iterator[LabelledImage]:
    """The images in the folder of a class, by name; other files are counted."""
    files, others = scan_folder(path / folder)
    left_out += others
    if not len(files):
        raise UserError(f"{path} must hold images of every class, got none of {class_name}")
    for index, name in enumerate(sorted(map(files.name, range(len(files))), key=key)):
        file = f"{folder}/{name}"
        if file in recorded:
            yield replace(recorded_image(path, recorded[file]), label=label, class_name=class_name)
        else:
            yield LabelledImage(path / file, label, class_name, index, facts={"original": file})


def _natural(name: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name


def _digest(image: LabelledImage) -> str:
    """Hex sha256 of an image that can be decoded."""
    image.load()
    return hashlib.sha256(image.content()).hexdigest()
