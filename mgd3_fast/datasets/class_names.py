"""Class names of datasets that are not folders: made fit for folder names, and found for labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mgd3_fast.datasets.imagenet import imagenet_class_titles, imagenet_classes
from mgd3_fast.datasets.selector import place_finder
from mgd3_fast.errors import UserError, listed
from mgd3_fast.storage.remote_path import RemotePath

# Beyond it a label is an error of the data (a hash, a time), not the index of a class.
_LARGEST_INDEX = 1_000_000


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """Make class names that can be names of folders, no two alike.

    ImageNet's English titles, all 1,000 in their order, become wnids. In other names slashes, backslashes
    and control characters become underscores, leading dots go, and names that are then empty or not
    unique get their label appended.

    Args:
        names: Names in label order.
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

    Raises:
        UserError: An index is above 1,000,000.
    """
    found = set(labels)
    if all(label.isdecimal() for label in found):
        largest = max((int(label) for label in found), default=-1)
        if largest > _LARGEST_INDEX:
            raise UserError(f"labels must be class indices up to {_LARGEST_INDEX:,} or names, got {largest}")
        return tuple(str(label) for label in range(largest + 1))
    return tuple(sorted(found))


class LabelIndex:
    """Finds the class of a label as a source writes it: a number counts in the class list, or it is a name.

    Args:
        names: Class names in label order, as the source writes them; None while nobody knows them.
        implied: Whether the names were made from labels (`names_of_labels`), so that each label is a name.
    """

    def __init__(self, names: Sequence[str] | None, *, implied: bool = False) -> None:
        self._names = names
        self._plain = plain_names(names or ())
        self._place = place_finder(
            {name: index for index, name in enumerate(names or ()) if implied or not name.isdecimal()}
        )

    def of(self, label: str, where: str) -> int:
        """Place in the names of the class of a label; `where` is its image, for messages.

        Raises:
            UserError: Out of range, or not a name.
        """
        place = self._place(label)
        if place is not None:
            return place
        if label.isdecimal() and int(label) < len(self._plain):
            return int(label)
        raise UserError(
            f"label {label!r} of {where} is no class: labels are indices from 0 to {len(self._plain) - 1} or"
            " names of the class list"
        )

    def named(self, label: str, where: str) -> tuple[str, int | None]:
        """Name and place of a label's class, see `of`; without a list its name to be, and None."""
        if self._names is None:
            return str(int(label)) if label.isdecimal() else _plain(label), None
        index = self.of(label, where)
        return self._plain[index], index


def read_names(path: Path | RemotePath) -> tuple[str, ...]:
    """Read a list of class names, one a line.

    Raises:
        UserError: No such file, an empty one, or a name twice.
    """
    try:
        lines = path.read_bytes().decode("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"classes must be a readable list of class names: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"classes must be a text file of class names, got {path}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if not names or repeated:
        raise UserError(f"{path} must name each class once, got {listed(repeated) or 'none'}")
    return names
