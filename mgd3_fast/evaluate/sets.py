"""What classifiers are trained on: distilled folders and, where they are asked for, all real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.datasets import Dataset, open_source
from mgd3_fast.datasets.folders import class_folders
from mgd3_fast.datasets.holdout import fit_part
from mgd3_fast.datasets.sides import MOST_LOOKED_AT, median_side
from mgd3_fast.datasets.spreading import spread
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.images import StoredImage
from mgd3_fast.evaluate.tested import check_covered
from mgd3_fast.writers.labelled import LabelledFolder, distinct_names
from mgd3_fast.writers.reader import read_classes

if TYPE_CHECKING:
    from mgd3_fast.config.evaluate import EvaluateConfig
    from mgd3_fast.progress import Progress

ALL_REAL = "all real images"
HELD_OUT = "val of train"


@dataclass(frozen=True)
class TrainingSet:
    """Images that classifiers are trained on.

    Args:
        images: At least one of each class.
        ipc: Images per class; their mean where classes have different numbers.
        side: Shorter side of the images in pixels, the median of some where they differ; None for all real
            images, which have no say in the size.
        source: Name of their folder.
        settings: How they were made, as far as it is known.
        notes: What makes their figures less than they seem.
    """

    images: tuple[StoredImage, ...]
    ipc: int
    side: int | None
    source: str
    settings: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def read_sets(config: EvaluateConfig, dataset: Dataset, progress: Progress) -> dict[str, TrainingSet]:
    """Read what is in the folders, and open all real images if asked to; no pixels are kept yet.

    Args:
        config: Names the folders.
        dataset: The images that are tested on.
        progress: Receives the bar of a scan.

    Returns:
        The sets by their names in results.

    Raises:
        UserError: A folder does not fit the dataset, or there are no training images.
    """
    found = [_read_folder(Path(path), dataset, config) for path in config.folders]
    sets = {
        name: _of_folder(name, folder, dataset)
        for name, folder in zip(distinct_names(found), found, strict=True)
    }
    if config.all_real == "on":
        sets[ALL_REAL] = _all_real(config, dataset, progress)
    return sets


def stored_images(dataset: Dataset) -> tuple[StoredImage, ...]:
    """The images of a dataset, class after class; labels are places in its classes."""
    return tuple(
        StoredImage(label, lambda cls=cls, place=place: cls.images.load(place), cls.images.location(place))  # type: ignore[misc]
        for label, cls in enumerate(dataset.classes)
        for place in range(len(cls))
    )


def common_side(sets: Mapping[str, TrainingSet]) -> int:
    """The side that all folders have pixels for: the smallest of theirs, in whatever order they come."""
    return min(one.side for one in sets.values() if one.side is not None)


def note_of_sides(sets: Mapping[str, TrainingSet], size: int) -> str | None:
    """Say in one line that sets are of different sizes and what becomes of them, or None."""
    sides = {name: one.side for name, one in sets.items() if one.side is not None}
    if len(set(sides.values())) < 2:
        return None
    listed = ", ".join(f"{name} {side} px" for name, side in sorted(sides.items()))
    return f"images are of different sizes ({listed}): networks see all of them at {size} px (--size)"


def training_part(config: EvaluateConfig, dataset: Dataset, progress: Progress) -> Dataset | None:
    """The training images of the classes that are opened, without those that are tested on.

    Returns:
        The images; None where they can only be read from front to back.

    Raises:
        UserError: There are none.
    """
    opened = open_source(
        config.dataset,
        data_dir=config.data_dir,
        classes=config.classes,
        progress=progress,
    )
    if not isinstance(opened, Dataset) or opened.stream is not None:
        return None
    return fit_part(opened) if dataset.split == HELD_OUT else opened


def _all_real(config: EvaluateConfig, dataset: Dataset, progress: Progress) -> TrainingSet:
    opened = training_part(config, dataset, progress)
    if opened is None:
        raise UserError(f"all_real must be off for {config.dataset}, because it is a stream")
    opened = opened.subset([cls.label for cls in dataset.classes])
    return TrainingSet(stored_images(opened), mean_ipc(opened), None, opened.name)


def mean_ipc(dataset: Dataset) -> int:
    """Images per class, rounded."""
    return max(1, round(len(dataset) / len(dataset.classes)))


def _of_folder(name: str, folder: LabelledFolder, dataset: Dataset) -> TrainingSet:
    places = {class_name: place for place, class_name in enumerate(dataset.class_names)}
    images = tuple(StoredImage(places[one.class_name], one.load, str(one.path)) for one in folder.images)
    loads = (images[place].load for place in spread(len(images), MOST_LOOKED_AT))
    side = median_side(loads, dataset.framing.fit)
    settings = folder.manifest["settings"] if folder.manifest else None
    return TrainingSet(
        images, folder.ipc, side, folder.path.name, settings, tuple(_notes(name, folder, dataset))
    )


def _read_folder(path: Path, dataset: Dataset, config: EvaluateConfig) -> LabelledFolder:
    try:
        return read_classes(path, dataset, "each of folders", config.ipc)
    except UserError:
        if config.classes is None and path.is_dir():
            check_covered(class_folders(path), path, dataset)
        raise


def _notes(name: str, folder: LabelledFolder, dataset: Dataset) -> list[str]:
    """What makes figures of a folder less than they seem."""
    notes = [f"{name}: {note}" for note in folder.notes]
    if not folder.manifest:
        return notes
    source = folder.manifest["dataset"]
    if source["class_list_hash"] != dataset.class_list_hash:
        notes.append(f"{name} was distilled from {source['name']}, whose class list is another one")
    if dataset.split in ("train", HELD_OUT) and source["split"] == "train":
        notes.append(
            f"{name} was distilled from all training images, those that are tested on included:"
            " distill --split fit leaves them out"
        )
    return notes
