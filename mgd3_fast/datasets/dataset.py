"""A labelled set of images: its classes in label order, where their images lie, and what identifies them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image

from mgd3_fast.datasets.framing import DEFAULT_FRAMING, Framing
from mgd3_fast.datasets.images import ImageSource, sha256_of_lines
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.errors import LONGEST_LINE

if TYPE_CHECKING:
    from mgd3_fast.datasets.streams import ImageStream

_MAX_LISTED_CLASSES = 20


@dataclass(frozen=True)
class ImageClass:
    """One class.

    Args:
        name: Wnid or folder name.
        label: Position in the full class list, whatever subset is opened.
        images: Its images, in a fixed order.
    """

    name: str
    label: int
    images: ImageSource

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of class name, image names and sizes: the same for every copy of the files."""
        return sha256_of_lines(self.name, self.images.key(times=False))

    @cached_property
    def cache_key(self) -> str:
        """Hex sha256 that also covers times of change; knows nothing of label, subset or path."""
        return sha256_of_lines(self.name, self.images.key(times=True))


@dataclass(frozen=True)
class Dataset:
    """Classes in label order.

    Args:
        name: What it was opened as, such as "imagenette", or the folder's name.
        classes: The opened classes, ascending by label.
        all_class_names: The full list that labels count in.
        split: "train", "val" or "test".
        root: Folder that holds the class folders, or None when the images are in memory.
        notes: One-line warnings about the images found.
        stream: Where images can only be read one after another, classes mixed; None for all others.
        framing: How its images become RGB and square.
    """

    name: str
    classes: tuple[ImageClass, ...]
    all_class_names: tuple[str, ...]
    split: str = "train"
    root: str | None = None
    notes: list[str] = field(default_factory=list)
    stream: ImageStream | None = None
    framing: Framing = DEFAULT_FRAMING

    def __len__(self) -> int:
        return sum(len(cls) for cls in self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the opened classes."""
        return tuple(cls.name for cls in self.classes)

    @property
    def counts(self) -> dict[str, int]:
        """Images of each opened class."""
        return {cls.name: len(cls) for cls in self.classes}

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over labels, names and fingerprints of the opened classes; machine independent."""
        return sha256_of_lines(*(f"{cls.label} {cls.name} {cls.fingerprint}" for cls in self.classes))

    @cached_property
    def class_list_hash(self) -> str:
        """See `list_hash`; of the full class list: fixes what labels mean."""
        return list_hash(self.all_class_names)

    def load(self, class_index: int, image_index: int) -> Image.Image:
        """Read one image at full size, as RGB.

        Args:
            class_index: Position in `classes` (not the label).
            image_index: Position in that class.

        Raises:
            BadImageError: The image is damaged.
            OSError: The file cannot be read.
        """
        return self.framing.rgb(self.classes[class_index].images.load(image_index))

    def square(self, class_index: int, image_index: int, size: int) -> Image.Image:
        """Read one image as `load` does, and bring it to a square of `size` pixels a side.

        Raises:
            BadImageError: The image is damaged, or too elongated to be cropped.
            OSError: The file cannot be read.
        """
        return self.framing.square(self.classes[class_index].images.load(image_index), size)

    def subset(self, classes: str | Iterable[int]) -> Dataset:
        """Keep some classes, with their labels.

        Args:
            classes: A selector as of `--classes` ("0-9,n01440764"), or labels.

        Raises:
            UserError: A class is unknown, or not among the opened ones.
        """
        labels = select_classes(classes, self.all_class_names, opened=[cls.label for cls in self.classes])
        return replace(self, classes=tuple(cls for cls in self.classes if cls.label in labels))

    def at(self, places: Iterable[int]) -> Dataset:
        """Keep some classes, given by their positions in `classes`, in the order they have there."""
        return replace(self, classes=tuple(self.classes[place] for place in sorted(set(places))))


def describe(dataset: Dataset) -> str:
    """Say in a few lines what was found: name, split, place, totals, images per class, and warnings.

    Images per class are summarised above 20 classes, and where their names are too long for one line.
    """
    counts = dataset.counts
    place = f" in {dataset.root}" if dataset.root else ""
    opened = f"{len(counts)} of {len(dataset.all_class_names)} classes"
    if len(counts) == len(dataset.all_class_names):
        opened = "1 class" if len(counts) == 1 else f"{len(counts)} classes"
    per_class = "images per class: " + ", ".join(f"{name} {count}" for name, count in counts.items())
    if len(counts) > _MAX_LISTED_CLASSES or len(per_class) > LONGEST_LINE:
        ordered = sorted(counts, key=counts.__getitem__)
        least, middle, most = ordered[0], ordered[len(ordered) // 2], ordered[-1]
        per_class = (
            f"images per class: {counts[least]} ({least}) to {counts[most]} ({most}), median {counts[middle]}"
        )
    heading = f"{dataset.name} ({dataset.split}): {opened}, {len(dataset):,} images{place}"
    return "\n".join([heading, per_class, *(f"warning: {note}" for note in dataset.notes)])


def list_hash(names: Iterable[str]) -> str:
    """Hex sha256 of class names joined by newlines, as manifests record it."""
    return sha256_of_lines(*names)
