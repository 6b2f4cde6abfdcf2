"""What was seen of all pictures, as columns: about 0.3 kB a picture, so that a million fit.

Shape letters: n pictures.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.check.look import THUMB, Look, Trait
from mgd3_fast.datasets.images import unpack_name

_NUMBERS = ("split", "label", "width", "height", "traits", "red", "green", "blue")


@dataclass(frozen=True)
class BadPicture:
    """A picture that cannot be read: its place in the splits, its name and why."""

    split: int
    label: int
    name: str
    reason: str


class Pictures:
    """Pictures in the order in which they were added, splits one after another.

    Args:
        splits: Names of the splits.
        class_names: Names of the classes, which labels count in; others join them when they are met.
    """

    def __init__(self, splits: Sequence[str], class_names: Sequence[str]) -> None:
        self.splits, self._labels = list(splits), {name: label for label, name in enumerate(class_names)}
        self.bad: list[BadPicture] = []
        self._numbers, self._ends = array("i"), array("q")
        self._names, self._digests, self._thumbs = bytearray(), bytearray(), bytearray()

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in label order."""
        return list(self._labels)

    def add(self, split: int, class_name: str, name: str, look: Look | str) -> None:
        """Keep what was seen of one picture, or why it cannot be read; columns come when all are."""
        label = self._labels.setdefault(class_name, len(self._labels))
        if isinstance(look, str):
            self.bad.append(BadPicture(split, label, name, look))
            return
        self._numbers.extend([split, label, look.width, look.height, int(look.traits), *look.colour])
        self._names += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._names))
        self._digests += look.digest
        self._thumbs += look.thumb.tobytes()

    def __len__(self) -> int:
        return len(self._ends)

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int32]]:
        rows = np.frombuffer(self._numbers, dtype=np.int32).reshape(-1, len(_NUMBERS))
        return dict(zip(_NUMBERS, rows.T, strict=True))

    @property
    def split(self) -> NDArray[np.int32]:
        """Split of each picture, [n]."""
        return self._columns["split"]

    @property
    def label(self) -> NDArray[np.int32]:
        """Class of each picture, [n]."""
        return self._columns["label"]

    @property
    def sides(self) -> NDArray[np.int32]:
        """Width and height of each picture, [n, 2]."""
        return np.stack([self._columns["width"], self._columns["height"]], axis=1)

    @property
    def colours(self) -> NDArray[np.int32]:
        """Mean colours, 0 to 255, [n, 3]."""
        return np.stack([self._columns[name] for name in ("red", "green", "blue")], axis=1)

    @property
    def digests(self) -> NDArray[np.void]:
        """Digests of the pixels, 16 bytes each, [n]."""
        return np.frombuffer(self._digests, dtype="V16")

    @property
    def thumbs(self) -> NDArray[np.int8]:
        """Thumbnails, int8 [n, THUMB^2]."""
        return np.frombuffer(self._thumbs, dtype=np.int8).reshape(-1, THUMB**2)

    def having(self, trait: Trait) -> NDArray[np.int64]:
        """Places of the pictures that have a trait, or one of several."""
        return np.flatnonzero(self._columns["traits"] & int(trait))

    def name(self, place: int) -> str:
        """Split, class and name of a picture."""
        file = unpack_name(
            np.frombuffer(self._names, dtype=np.uint8), np.frombuffer(self._ends, np.int64), place
        )
        return self._place(self.split[place], self.label[place], file)

    def bad_name(self, bad: BadPicture) -> str:
        """Split, class and name of a picture that cannot be read, and why."""
        return f"{self._place(bad.split, bad.label, bad.name)} ({bad.reason})"

    def _place(self, split: int, label: int, file: str) -> str:
        of_split = f"{self.splits[split]}/" if len(self.splits) > 1 else ""
        return f"{of_split}{self.class_names[label]}/{file}"
