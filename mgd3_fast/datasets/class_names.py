"""Class names of datasets that are not folders: made fit for folder names, and found for labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.imagenet import imagenet_class_titles, imagenet_classes
from mgd3_fast.datasets.scanning import listed
from mgd3_fast.errors import UserError

# Beyond it a label is an error of the data (a hash, a time), not the index of a class.
_LARGEST_INDEX = 1_000_000


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """Make class names that can be names of folders.

    ImageNet's English titles, all 1,000 in their order, become wnids. In other names slashes, backslashes
    and control characters become underscores, leading dots go, and names that are then empty or not
    unique get their label appended.

    Args:
        names: Names in label order.

    Returns:
        As many names, no two alike.
    """
    if tuple(names) == imagenet_class_titles():
        return imagenet_classes("imagenet1k")
    plain = [_plain(name) for name in names]
    times = Counter(plain)
    return tuple(
        name if name and times[name] == 1 else f"{name or 'class'}-{label}"
        for label, name in enumerate(plain)
    )


def _plain(name: str) -> str:
    return re.sub(r"[/\\\x00-\x1f]", "_", name).strip().lstrip(".")


def names_of_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """The class list that labels imply where nothing else names the classes.

    Args:
        labels: The labels of all images, as a source writes them.

    Returns:
        "0" up to the largest label where all are indices, otherwise the labels themselves, sorted.
    """
    found = set(labels)
    if all(label.isdecimal() for label in found):
        largest = max((int(label) for label in found), default=-1)
        if largest > _LARGEST_INDEX:
            raise UserError(f"labels must be class indices up to {_LARGEST_INDEX:,} or names, got {largest}")
        return tuple(str(label) for label in range(largest + 1))
    return tuple(sorted(found))


class LabelIndex:
    """Finds the index of a label as a source writes it: a number counts in the class list, or it is a name.

    Args:
        names: Class names in label order, as the source writes them.
        implied: Whether the names were made from labels (`names_of_labels`), so that each label is a name.
    """

    def __init__(self, names: Sequence[str], *, implied: bool = False) -> None:
        self.count = len(names)
        self._plain = plain_names(names)
        self._places = {name: index for index, name in enumerate(names) if implied or not name.isdecimal()}

    def find(self, label: str) -> int:
        """The index of a label, -1 where it has none."""
        index = self._places.get(label, int(label) if label.isdecimal() else -1)
        return index if index < self.count else -1

    def of(self, label: str, where: str) -> int:
        """The index of a label.

        Args:
            label: As the source writes it.
            where: The image, for messages.

        Returns:
            Its place in the names.

        Raises:
            UserError: Out of range, or not a name.
        """
        index = self.find(label)
        if index >= 0:
            return index
        raise UserError(
            f"labels must be indices from 0 to {self.count - 1} or class names, got {label!r} for {where}"
        )

    def named(self, label: str, where: str) -> tuple[str, int | None]:
        """Name and index of a label's class; see `of`."""
        index = self.of(label, where)
        return self._plain[index], index


class UnknownLabels:
    """Stands for a `LabelIndex` while nobody knows which classes there are."""

    def named(self, label: str, where: str) -> tuple[str, int | None]:
        """The name that a label's class will have, and None for its index."""
        return str(int(label)) if label.isdecimal() else _plain(label), None


def read_names(path: Path) -> tuple[str, ...]:
    """Read a list of class names, one a line.

    Raises:
        UserError: No such file, an empty one, or a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"classes must be a readable list of class names: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"classes must be a text file of class names, got {path}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if not names or repeated:
        raise UserError(f"{path} must name each class once, got {listed(repeated) if repeated else 'none'}")
    return names


def check_classes(dataset: Dataset) -> None:
    """Refuse opened classes without images.

    Raises:
        UserError: Naming them.
    """
    empty = [cls.name for cls in dataset.classes if not len(cls)]
    if empty:
        raise UserError(
            f"classes of {dataset.root} must have images, none in {listed(empty)} "
            "(--classes leaves classes out)"
        )
