"""Images with labels: what a finished run, or any folder of class folders, holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from mgd3_fast.datasets import BadImageError, decode_image
from mgd3_fast.datasets.class_list import class_titles
from mgd3_fast.errors import UserError

_AGAIN = " (the distill command that wrote the folder makes it again)"
_HOW_MADE = ("settings", "guidance", "generator", "dataset")


@dataclass(frozen=True)
class LabelledImage:
    """One image file.

    Args:
        path: Where it lies.
        label: Label of its class, in the full class list.
        class_name: Name of its class.
        index: Number within its class, from 0; of a run the mode index.
        sha256: What its bytes must have; None where nothing is recorded.
        facts: What else is known: of a run mode, weight, seed and source image, else the original file.
    """

    path: Path
    label: int
    class_name: str
    index: int
    sha256: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """File name ending with its dot, in lower case."""
        return self.path.suffix.lower()

    @property
    def size(self) -> int:
        """Bytes of the file; a `UserError` where it is gone."""
        with self._there():
            return self.path.stat().st_size

    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            UserError: It is gone, or has another sha256 than recorded.
        """
        with self._there():
            content = self.path.read_bytes()
        if self.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise UserError(f"{self.path} was changed: it has another sha256 than recorded{_AGAIN}")
        return content

    def load(self) -> Image.Image:
        """Decode the image as `decode_image` does; its sha256 is not compared.

        Raises:
            UserError: It is gone or damaged.
        """
        try:
            with self._there():
                return decode_image(self.path.read_bytes())
        except BadImageError as error:
            raise UserError(f"images must be readable, got {self.path}: {error}") from None

    @contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.path} is missing{_AGAIN if self.sha256 else ''}") from None


@dataclass(frozen=True)
class LabelledClass:
    """One class: its name, its label in the full list, an English title where known, and its images."""

    name: str
    label: int
    title: str | None
    images: int


@dataclass(frozen=True)
class LabelledFolder:
    """Images with their labels.

    Args:
        path: Where they lie.
        dataset: Name of the dataset whose class list the labels count in.
        names: The full class list in label order; None for a name that cannot be known, which happens where
            a run took some classes of a folder.
        images: Class after class in label order, at least one.
        manifest: Content of the run's `manifest.json`; empty where there is none.
        notes: One-line warnings about files that were found.
    """

    path: Path
    dataset: str
    names: tuple[str | None, ...]
    images: tuple[LabelledImage, ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.resolve().name

    @cached_property
    def by_class(self) -> dict[str, list[LabelledImage]]:
        """The images of each class, by its name."""
        found: dict[str, list[LabelledImage]] = {}
        for image in self.images:
            found.setdefault(image.class_name, []).append(image)
        return found

    @cached_property
    def classes(self) -> tuple[LabelledClass, ...]:
        """The classes that have images."""
        titles = class_titles(list(self.by_class))
        return tuple(
            LabelledClass(name, images[0].label, title, len(images))
            for (name, images), title in zip(self.by_class.items(), titles, strict=True)
        )

    @property
    def complete(self) -> bool:
        """Whether every class of the full list has images."""
        return len(self.by_class) == len(self.names)

    @property
    def how_made(self) -> dict[str, Any] | None:
        """The sections of a run's manifest that say how the images were made; None where there is none."""
        return {name: self.manifest[name] for name in _HOW_MADE if name in self.manifest} or None

    @cached_property
    def counts(self) -> dict[str, int]:
        """Images of each class, by its name."""
        return {name: len(images) for name, images in self.by_class.items()}

    @property
    def even(self) -> bool:
        """Whether classes have equally many images."""
        return len(set(self.counts.values())) == 1

    @property
    def ipc(self) -> int:
        """Images per class, where classes have equally many."""
        return len(self.images) // len(self.counts)

    def check_even(self) -> None:
        """Refuse classes of different sizes.

        Raises:
            UserError: Naming two of them.
        """
        if not self.even:
            counts = self.counts
            least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            raise UserError(
                f"{self.path} must hold equally many images of every class, got {counts[least]} of {least}"
                f" and {counts[most]} of {most} (--ipc takes the first so many)"
            )

    def first(self, ipc: int) -> LabelledFolder:
        """Keep the first so many images of each class.

        Raises:
            UserError: A class has fewer.
        """
        least = min(self.counts, key=self.counts.__getitem__)
        if self.counts[least] < ipc:
            raise UserError(
                f"ipc must be at most {self.counts[least]}, the images of class {least} in {self.path},"
                f" got {ipc}"
            )
        kept = tuple(image for images in self.by_class.values() for image in images[:ipc])
        return replace(self, images=kept)

    def check_files(self) -> None:
        """Refuse a folder of which a file is gone, before any of them is read.

        Raises:
            UserError: Naming the file.
        """
        for image in self.images:
            _ = image.size


def distinct_names(folders: Sequence[LabelledFolder]) -> list[str]:
    """What folders are called side by side.

    Last parts of the paths, or the paths where two are the same, with a number where even these are.
    """
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder.path) for folder in folders]
    counts = {name: names.count(name) for name in names}
    return [name if counts[name] == 1 else f"{name} #{place}" for place, name in enumerate(names, 1)]
