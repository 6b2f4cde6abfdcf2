"""A part of every training class held out, so that settings are tuned on it and not on the test images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from mgd3_fast.datasets.dataset import Dataset, ImageClass
from mgd3_fast.datasets.images import ImageSource, sha256_of_lines
from mgd3_fast.datasets.opening import open_source
from mgd3_fast.datasets.spreading import spread
from mgd3_fast.errors import UserError

SHARE = 0.2
MOST_PER_CLASS = 100


class ChosenImages:
    """Images of a class at some positions, under their names in the whole class."""

    def __init__(self, images: ImageSource, positions: Sequence[int]) -> None:
        self._images, self._positions = images, tuple(positions)
        self.in_memory, self.is_remote = images.in_memory, images.is_remote

    def __len__(self) -> int:
        return len(self._positions)

    def name(self, position: int) -> str:
        """See `ImageSource`, as for the others."""
        return self._images.name(self._positions[position])

    def size(self, position: int) -> int:
        """Bytes of an image's file."""
        return self._images.size(self._positions[position])

    def location(self, position: int) -> str:
        """Where an image lies."""
        return self._images.location(self._positions[position])

    def read(self, position: int) -> bytes:
        """Bytes of an image's file."""
        return self._images.read(self._positions[position])

    def load(self, position: int) -> Image.Image:
        """Read one image."""
        return self._images.load(self._positions[position])

    def key(self, *, times: bool) -> str:
        """Hex sha256 of the whole class's key and the choice."""
        return sha256_of_lines(self._images.key(times=times), str(self._positions))


def fit_part(dataset: Dataset) -> Dataset:
    """The training images that are not held out, as split "fit".

    Args:
        dataset: A train split.

    Raises:
        UserError: A class has fewer than 2 images, or images can only be read from front to back.
    """
    return _part(dataset, "fit", held_out=False)


def held_out_part(dataset: Dataset) -> Dataset:
    """The training images that are held out: a fifth of every class, at most 100, at least 1.

    Which ones depends on the class's name and its images' names alone: those with the smallest sha256.

    Args:
        dataset: A train split.

    Returns:
        The same classes and labels, split "val of train".

    Raises:
        UserError: A class has fewer than 2 images, or images can only be read from front to back.
    """
    return _part(dataset, "val of train", held_out=True)


def open_held_out(
    spec: str,
    split: str,
    *,
    data_dir: Path | str | None = None,
    classes: str | None = None,
    cache_dir: Path | str | None = None,
) -> Dataset | None:
    """Open the images that nothing trained on a split of a dataset has seen.

    Args:
        spec: The dataset, see `open_dataset`, as for the rest.
        split: "train", which the dataset's own validation or test images are held out of, or "fit", which is
            what `held_out_part` leaves.
        data_dir: The ILSVRC tree.
        classes: Selector.
        cache_dir: Where indexes are kept.

    Returns:
        The images; None where the dataset has none, or only ones that are read from front to back.

    Raises:
        UserError: The dataset itself cannot be opened.
    """
    named: dict[str, Any] = {"data_dir": data_dir, "classes": classes, "cache_dir": cache_dir}
    if split == "fit":
        whole = open_source(spec, **named)
        return held_out_part(whole) if isinstance(whole, Dataset) else None
    try:
        opened = open_source(spec, split="val", **named)
    except UserError:
        return None
    return opened if isinstance(opened, Dataset) and opened.stream is None else None


def chosen_images(dataset: Dataset, most: int) -> Dataset:
    """At most `most` images of every class, evenly spread over it, as they are numbered."""
    classes = tuple(
        replace(cls, images=ChosenImages(cls.images, spread(len(cls), most))) for cls in dataset.classes
    )
    return replace(dataset, classes=classes)


def _part(dataset: Dataset, split: str, *, held_out: bool) -> Dataset:
    if dataset.stream is not None:
        raise UserError(
            f"no images can be held out of {dataset.name}, because it is a stream: give a folder, or the"
            " name of a dataset"
        )
    classes = []
    for cls in dataset.classes:
        chosen = _held_out(cls)
        positions = [place for place in range(len(cls)) if (place in chosen) == held_out]
        classes.append(replace(cls, images=ChosenImages(cls.images, positions)))
    return replace(dataset, classes=tuple(classes), split=split, notes=list(dataset.notes))


def _held_out(cls: ImageClass) -> set[int]:
    if len(cls) < 2:
        raise UserError(
            f"class {cls.name} must have at least 2 images to hold one out, got {len(cls)}: add some, or"
            " leave the class out with --classes"
        )
    count = min(max(1, round(SHARE * len(cls))), MOST_PER_CLASS)
    names = (f"{cls.name}/{cls.images.name(place)}" for place in range(len(cls)))
    digests = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    return set(sorted(range(len(cls)), key=digests.__getitem__)[:count])
