"""Which of a network's class ids a dataset's class is, and the lists of names that networks come with."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.datasets.imagenet import imagenet_class_titles, imagenet_classes
from mgd3_fast.datasets.selector import matched
from mgd3_fast.errors import UserError, listed

if TYPE_CHECKING:
    from mgd3_fast.datasets import Dataset
    from mgd3_fast.generators.base import Generator
    from mgd3_fast.progress import Progress

LIST_NAMES = ("classes.txt", "class_names.txt", "class_to_idx.json")
"""What a list of class names beside a checkpoint is called; before them `STEM.classes.txt` of that file."""


def class_ids(generator: Generator, dataset: Dataset, progress: Progress) -> tuple[int, ...]:
    """Find the generator's class id of each class of a run.

    Args:
        generator: Any.
        dataset: Its opened classes are the run's.
        progress: Is told where ids are a guess, and warned where it is likely to be a wrong one.

    Returns:
        Ids in the order of the classes.

    Raises:
        UserError: The generator does not know a class.
    """
    if generator.class_names is not None:
        return tuple(generator.class_ids(dataset.class_names))
    # A generator without names counts in the full class list, also when only some classes of it are opened.
    names = dataset.all_class_names
    ids = generator.class_ids(names)
    if not _are_of_imagenet(names, generator.num_classes):
        progress.note(
            f"{generator.name} knows no class names: its class ids are taken to be the dataset's labels"
        )
        if list(names) != sorted(names):
            progress.note(
                f"warning: the classes of {dataset.name} are not in sorted order, as a network trained on a"
                f" folder of class folders counts them: --generator-classes FILE states the order of"
                f" {generator.name}"
            )
    return tuple(ids[cls.label] for cls in dataset.classes)


def find_ids(
    class_names: Sequence[str], known_names: Sequence[str] | None, num_classes: int, generator: str
) -> list[int]:
    """Find the id of each class, by name, by wnid or by position; see `Generator.class_ids`."""
    if known_names is not None:
        return _ids_by_name(class_names, known_names, generator)
    if _are_of_imagenet(class_names, num_classes):
        return _ids_by_name(class_names, imagenet_classes("imagenet1k"), None)
    if len(class_names) == num_classes:
        return list(range(num_classes))
    raise UserError(
        f"dataset must have {num_classes} classes, got {len(class_names)} ({listed(class_names)}): generator"
        f" {generator} has {num_classes}, and does not say which; --generator-classes FILE tells it"
    )


def read_class_names(file: Path, num_classes: int) -> tuple[str, ...]:
    """Read the names of a network's classes.

    Args:
        file: UTF-8 text with one name per line, line k being id k; or JSON: a list of names, an object of ids
            by name (`ImageFolder.class_to_idx`), or one of names by id (diffusers' `id2label`).
        num_classes: How many there must be.

    Returns:
        Names in the order of the ids.

    Raises:
        UserError: The file cannot be read, has another form, or names another number of classes.
    """
    names = _read_names(file)
    if len(names) != num_classes:
        raise UserError(f"{file} names {len(names)} classes, and the network has {num_classes}")
    return names


def names_by_id(content: Any, place: str) -> tuple[str, ...]:
    """Put the class names of a JSON value in the order of their ids; see `read_class_names`."""
    if isinstance(content, dict) and all(type(value) is int for value in content.values()):
        content = {number: name for name, number in content.items()}
    if isinstance(content, dict) and all(str(number).isdecimal() for number in content):
        by_id = {int(number): name for number, name in content.items()}
        content = [by_id.get(number) for number in range(len(by_id))]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{place} must name each class id from 0 on once")
    return tuple(content)


def names_beside(path: Path, num_classes: int) -> tuple[tuple[str, ...] | None, str | None]:
    """Look for a list of class names that lies in a generator's folder, or beside its file.

    Args:
        path: The folder or file.
        num_classes: Classes of the network.

    Returns:
        The names, or None, and a note on what was found, or None.
    """
    folder = path if path.is_dir() else path.parent
    candidates = (folder / f"{path.stem}.classes.txt", *(folder / name for name in LIST_NAMES))
    for file in filter(Path.is_file, candidates):
        try:
            names = _read_names(file)
        except UserError as error:
            return None, f"{error}: it is not used"
        if len(names) == num_classes:
            return names, f"class names of {path.name}: {file}"
        return None, f"{file} names {len(names)} classes and {path.name} has {num_classes}: it is not used"
    return None, None


def _read_names(file: Path) -> tuple[str, ...]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".json":
            return names_by_id(json.loads(text), str(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file} is no list of class names: {error}") from None
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if "" in names or len(set(names)) < len(names):
        twice = next((name for name in names if name and names.count(name) > 1), None)
        wrong = f"{twice!r} twice" if twice else f"an empty line {names.index('') + 1}"
        raise UserError(f"{file} must have a class name of its own on each line, got {wrong}")
    return names


def _are_of_imagenet(class_names: Sequence[str], num_classes: int) -> bool:
    places = _wnid_places()
    return num_classes == len(places) and any(name in places for name in class_names)


def _ids_by_name(class_names: Sequence[str], known_names: Sequence[str], generator: str | None) -> list[int]:
    """Look up names; those of ImageNet's wnids where no generator is named."""
    exact, spelled = (
        {name: index for index, name in enumerate(known_names)},
        matched(class_names, known_names),
    )
    whole, parts = defaultdict[str, set[int]](set), defaultdict[str, set[int]](set)
    for index, name in enumerate(known_names):
        whole[_word(name)].add(index)
        for synonym in name.split(","):
            parts[_word(synonym)].add(index)
    ids: list[int] = []
    for name in class_names:
        found = {exact[spelled[name]]} if name in spelled else _of_that_name(name, whole, parts)
        if not found:
            rule = "an ImageNet wnid, as the dataset's other classes are,"
            advice = ""
            if generator is not None:
                rule = f"one that generator {generator} was trained on"
                advice = ": docs/generators.md has what to do with class names of your own"
            raise UserError(f"class must be {rule} ({listed(known_names)}), got {name!r}{advice}")
        if len(found) > 1:
            raise UserError(
                f"class {name!r} is the name of several class ids of {generator}:"
                f" {listed(map(str, sorted(found)))}; --generator-classes FILE tells them apart"
            )
        ids.extend(found)
    return ids


def _of_that_name(name: str, whole: dict[str, set[int]], parts: dict[str, set[int]]) -> set[int]:
    """Find the ids that a class's name, or for a wnid its synonyms or one of them, stands for."""
    place, texts = _wnid_places().get(name), [name]
    if place is not None:
        title = imagenet_class_titles()[place]
        texts = [title, *title.split(",")]
    words = map(_word, texts)
    found = next((table[word] for word in words for table in (whole, parts) if word in table), set[int]())
    # Two cranes, two cardigans and two maillots are told apart by their places, where these are ImageNet's.
    return {place} if place in found else found


def _word(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).lower()


@cache
def _wnid_places() -> dict[str, int]:
    return {wnid: place for place, wnid in enumerate(imagenet_classes("imagenet1k"))}
