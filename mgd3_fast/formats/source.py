"""What is converted: images with their labels, class after class in label order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.formats.class_list import class_titles

_RUN_SECTIONS = ("settings", "guidance", "generator", "dataset")


@dataclass(frozen=True)
class SourceImage:
    """One image file.

    Args:
        path: Where it lies.
        label: Label of its class, in the full list.
        class_name: Name of its class.
        index: Number within its class, from 0; of a run the mode index.
        size: Bytes of the file.
        sha256: Of the file.
        facts: What a run's manifest says about it besides: seed, weight, source image.
    """

    path: Path
    label: int
    class_name: str
    index: int
    size: int
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """File name ending with its dot, in lower case."""
        return self.path.suffix.lower()


@dataclass(frozen=True)
class SourceClass:
    """One class: its name, its label in the full list, an English title where known, and its images."""

    name: str
    label: int
    title: str | None
    images: int


@dataclass(frozen=True)
class Source:
    """Images with their labels.

    Args:
        folder: Where they lie.
        dataset: Name of the dataset whose class list the labels count in.
        names: The full class list in label order; None for a name that cannot be known, which happens where
            a run took some classes of a folder.
        classes: Classes that have images, ascending by label.
        images: Class after class, ascending by index within a class.
        manifest: Content of the run's `manifest.json`, or None.
    """

    folder: Path
    dataset: str
    names: tuple[str | None, ...]
    classes: tuple[SourceClass, ...]
    images: tuple[SourceImage, ...]
    manifest: dict[str, Any] | None

    @property
    def run(self) -> dict[str, Any] | None:
        """The sections of the manifest that say how the images were made."""
        if self.manifest is None:
            return None
        return {name: self.manifest[name] for name in _RUN_SECTIONS if name in self.manifest}

    @property
    def ipc(self) -> int | None:
        """Images per class; None where classes differ."""
        counts = {one.images for one in self.classes}
        return counts.pop() if len(counts) == 1 else None

    @property
    def complete(self) -> bool:
        """Whether every class of the full list has images."""
        return len(self.classes) == len(self.names)


def make_source(
    folder: Path,
    dataset: str,
    names: Sequence[str | None],
    images: Sequence[SourceImage],
    manifest: dict[str, Any] | None = None,
) -> Source:
    """Put images in order and count them.

    Args:
        folder: Where they lie.
        dataset: Name of the dataset whose class list the labels count in.
        names: The full class list in label order.
        images: The images in any order, at least one.
        manifest: Content of the run's `manifest.json`, or None.

    Returns:
        The source.

    Raises:
        UserError: If a class has a name that no folder can have.
    """
    ordered = tuple(sorted(images, key=lambda image: (image.label, image.index)))
    counts: dict[tuple[int, str], int] = {}
    for image in ordered:
        key = (image.label, image.class_name)
        counts[key] = counts.get(key, 0) + 1
    titles = class_titles([name for _, name in counts])
    classes = tuple(
        SourceClass(name, label, title, count)
        for ((label, name), count), title in zip(counts.items(), titles, strict=True)
    )
    for one in classes:
        if PurePosixPath(one.name).name != one.name or one.name.startswith("."):
            raise UserError(f"class names must be names of visible folders, got {one.name!r} in {folder}")
    return Source(folder, dataset, tuple(names), classes, ordered, manifest)


def content_of(image: SourceImage) -> bytes:
    """Read an image file.

    Args:
        image: With the sha256 that its bytes must have.

    Returns:
        The bytes of the file, as they are.

    Raises:
        UserError: If the file is gone or holds other bytes.
    """
    try:
        content = image.path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"src must hold every image, missing {image.path}") from None
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise UserError(
            f"src must hold unchanged images, got {image.path} with another sha256 than recorded"
            " (the distill command that wrote the folder makes it again)"
        )
    return content
