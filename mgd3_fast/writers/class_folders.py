"""Which folder holds which class: by the class's name, or by its label in decimal digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mgd3_fast.datasets import Dataset, imagenet_classes
from mgd3_fast.datasets.folders import class_folders
from mgd3_fast.datasets.selector import matched
from mgd3_fast.errors import UserError, listed
from mgd3_fast.progress import Progress


def every_class(path: Path, dataset: Dataset, recorded: Mapping[str, str], option: str) -> dict[str, str]:
    """Find the folders of all opened classes of a dataset, by class name.

    Args:
        path: Folder of the class folders.
        dataset: Gives the classes.
        recorded: Folders by class name as a manifest has them; empty where there is none.
        option: What the folder was given as, for messages.

    Raises:
        UserError: A class is missing or there twice, or a folder is of no opened class.
    """
    unknown: list[str] = []
    spelled = matched(recorded, dataset.all_class_names)
    found = {spelled.get(name, name): folder for name, folder in recorded.items()}
    if not recorded:
        found, unknown = _folders_by_class(path, dataset.all_class_names, option)
    wanted = dataset.class_names
    others = sorted([*(name for name in found if name not in wanted), *unknown])
    missing = [name for name in wanted if name not in found or not (path / found[name]).is_dir()]
    if missing == list(wanted):
        raise UserError(
            f"{path} must hold folders named as the classes of {dataset.name} ({listed(wanted)}), got"
            f" {listed(others) or 'no folders'}"
        )
    if missing:
        raise UserError(
            f"{path} must hold every class of {dataset.name}, missing {listed(missing)}"
            " (--classes takes a part of the list)"
        )
    lacking = [name for name in recorded if spelled.get(name) is None]
    if lacking:
        raise UserError(
            f"{dataset.name} ({dataset.split}) has no images of {listed(lacking)}, but {path} was made for"
            " them: name another split or dataset"
        )
    if others:
        raise UserError(f"{path} must hold classes of {dataset.name} alone, unknown {listed(others)}")
    return found


def some_classes(
    path: Path, name: str, names: Sequence[str], option: str, progress: Progress
) -> dict[str, str]:
    """Find the folders of whatever classes of a named list are there, at least one, by class name.

    Of an ImageNet list other classes of ImageNet may be there too; they are left out, with a note.

    Raises:
        UserError: A class is there twice, or a folder is of no class.
    """
    found, unknown = _folders_by_class(path, names, option)
    wnids = set(imagenet_classes("imagenet1k"))
    for folder in unknown:
        if folder not in wnids or not wnids.issuperset(names):
            raise UserError(
                f"{option} must hold folders named as the classes of {name} ({listed(names)}) or by their"
                f" labels, got {folder!r} in {path}"
            )
    if not found:
        raise UserError(f"{option} must hold one folder of images per class of {name}, got none in {path}")
    if unknown or len(found) < len(names):
        left_out = f", {len(unknown)} folders of other classes left out" if unknown else ""
        progress.note(f"{len(found)} of the {len(names)} classes of {name}{left_out}")
    return found


def _folders_by_class(path: Path, names: Sequence[str], option: str) -> tuple[dict[str, str], list[str]]:
    """The folder of each class that is there, and folders that are no class; a name wins over a label."""
    found: dict[str, str] = {}
    unknown: list[str] = []
    folders = class_folders(path)
    known = matched(folders, names)
    for folder in folders:
        by_label = folder.isdecimal() and int(folder) < len(names)
        name = known.get(folder, names[int(folder)] if by_label else None)
        if name is None:
            unknown.append(folder)
        elif name in found:
            raise UserError(f"{option} must hold each class once, got {found[name]} and {folder} in {path}")
        else:
            found[name] = folder
    return found, unknown
