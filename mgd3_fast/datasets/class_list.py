"""What labels mean: the class names of a whole list, and English titles where they are known."""

from __future__ import annotations

from collections.abc import Sequence

from mgd3_fast.datasets.imagenet import IMAGENET_NAMES, imagenet_class_titles, imagenet_classes
from mgd3_fast.datasets.opening import open_dataset

_DIGITS = tuple(str(digit) for digit in range(10))


def built_in_list(name: str) -> tuple[str, ...] | None:
    """The class names of a dataset that comes with its list, in label order; None for any other."""
    if name in IMAGENET_NAMES:
        return imagenet_classes(name)
    return _DIGITS if name == "mnist5k" else None


def class_list(dataset: str) -> tuple[str, tuple[str, ...]]:
    """Name and class names, in label order, of what `--dataset` takes.

    Raises:
        UserError: Nothing that `--dataset` takes.
    """
    built_in = built_in_list(dataset)
    if built_in is not None:
        return dataset, built_in
    opened = open_dataset(dataset)
    return opened.name, opened.all_class_names


def class_titles(names: Sequence[str]) -> list[str | None]:
    """English synonyms of ImageNet classes ("tench, Tinca tinca"); None for names that are no wnid of it."""
    titles = dict(zip(imagenet_classes("imagenet1k"), imagenet_class_titles(), strict=True))
    return [titles.get(name) for name in names]
