"""The paper's ImageNet class lists over an ILSVRC-2012 tree, and what image counts say about the tree."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.folders import class_folders, scan_classes
from mgd3_fast.datasets.ilsvrc_tars import ILSVRC_TARS, find_ilsvrc_tar, open_ilsvrc_tar
from mgd3_fast.datasets.images import ImageSource
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.errors import UserError, listed
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.storage.cache import cache_dir_or_default
from mgd3_fast.storage.remote_path import RemotePath, path_at

_LIST_FILES = {
    "imagenet1k": "imagenet1k.txt",
    "imagenet100": "imagenet100.txt",
    "imagenette": "imagenette.txt",
    "imagewoof": "imagewoof.txt",
    "imageidc": "imagenet_idc.txt",
    **{f"imagenet-{letter}": f"imagenet_{letter}.txt" for letter in "abcde"},
}
IMAGENET_NAMES = tuple(_LIST_FILES)

_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation")}
_PARENTS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")

# Images per class of ILSVRC-2012, and the totals that tell its trees from fastai's version-2 re-splits.
_PER_CLASS = {"train": (732, 1300), "val": (50, 50)}
_ILSVRC_TOTALS = {
    ("imagenet1k", "train"): 1_281_167,
    ("imagenette", "train"): 12_894,
    ("imagewoof", "train"): 12_454,
}
_FASTAI_TOTALS = {
    ("imagenette", "train"): ("imagenette2", 9_469),
    ("imagenette", "val"): ("imagenette2", 3_925),
    ("imagewoof", "train"): ("imagewoof2", 9_025),
    ("imagewoof", "val"): ("imagewoof2", 3_929),
}
_VAL_FILE_PREFIX = "ILSVRC2012_val_"


@cache
def imagenet_classes(name: str) -> tuple[str, ...]:
    """The wnids of a class list in label order, which is not always sorted order.

    Args:
        name: One of `IMAGENET_NAMES`.

    Raises:
        UserError: No such list.
    """
    if name not in _LIST_FILES:
        raise UserError(f"name must be one of {', '.join(IMAGENET_NAMES)}, got {name!r}")
    text = (resources.files("mgd3_fast.datasets") / "classlists" / _LIST_FILES[name]).read_text("utf-8")
    return tuple(text.split())


@cache
def imagenet_class_titles() -> tuple[str, ...]:
    """English synonyms of the 1,000 classes ("tench, Tinca tinca"), in the order of `imagenet1k`."""
    path = resources.files("mgd3_fast.datasets") / "classlists" / "imagenet1k_names.tsv"
    return tuple(line.split("\t")[2] for line in path.read_text("utf-8").splitlines())


def open_imagenet(
    name: str,
    data_dir: Path | RemotePath | None,
    classes: str | None,
    split: str,
    progress: Progress = SILENT,
    cache_dir: Path | str | None = None,
) -> Dataset:
    """Open a class list over an ILSVRC-2012 tree, or over its tar files as downloaded; see `open_dataset`.

    `notes` of the dataset tell ILSVRC from fastai's re-splits and name unexpected counts.

    Args:
        name: One of `IMAGENET_NAMES`.
        data_dir: The tree: a folder with train/ (also nested as in ILSVRC/Data/CLS-LOC) or the folder of
            wnid folders itself, on a disk or in a bucket; else the folder of ILSVRC2012_img_train.tar (and
            ILSVRC2012_img_val.tar with its labels), or such a file, on a disk; $IMAGENET_DIR by default.
        classes: Selector; all by default.
        split: "train" or "val".
        progress: Where the bar goes.
        cache_dir: Keeps a tar's index.

    Raises:
        UserError: No tree given, no class folders in it, or some missing or empty.
    """
    names = imagenet_classes(name)
    labels = list(range(len(names))) if classes is None else select_classes(classes, names)
    if split not in _SPLIT_FOLDERS:
        raise UserError(f"split must be train or val for {name}, got {split!r}")
    if data_dir is None:
        if not os.environ.get("IMAGENET_DIR"):
            raise UserError(
                f"data_dir must name an ILSVRC-2012 tree for {name}: give --data-dir or set IMAGENET_DIR"
            )
        data_dir = path_at(os.environ["IMAGENET_DIR"])
    wnids = set(imagenet_classes("imagenet1k"))
    folders = [root for root in _candidate_roots(data_dir, split) if root.is_dir()]
    root = next((root for root in folders if not wnids.isdisjoint(class_folders(root))), None)
    if root is not None:
        found, notes = scan_classes(root, names, labels, progress)
    else:
        root = None if isinstance(data_dir, RemotePath) else find_ilsvrc_tar(data_dir, split)
        if root is None:
            raise _nothing_found(data_dir, split, folders)
        indexes = cache_dir_or_default(cache_dir) / "indexes"
        found, notes = open_ilsvrc_tar(root, names, labels, split, indexes, progress)
    dataset = Dataset(name, found, names, split, str(root))
    dataset.notes.extend([*count_notes(dataset), *notes])
    return dataset


def _nothing_found(
    data_dir: Path | RemotePath, split: str, folders: Sequence[Path | RemotePath]
) -> UserError:
    if not data_dir.is_dir():
        return UserError(f"data_dir must be an existing folder, got {data_dir}")
    for root in folders:
        if root != data_dir:
            return UserError(f"{root} must hold one folder per wnid (n01440764, ...), got none")
    names = " or ".join(f"{folder}/" for folder in _SPLIT_FOLDERS[split])
    return UserError(
        f"data_dir must hold {names} with wnid folders (n01440764, ...), or be it, or hold "
        f"{ILSVRC_TARS[split]}, got {data_dir}"
    )


def _candidate_roots(data_dir: Path | RemotePath, split: str) -> Iterator[Path | RemotePath]:
    for parent in _PARENTS:
        for folder in _SPLIT_FOLDERS[split]:
            yield data_dir / parent / folder
    own_name = data_dir.resolve().name
    other_splits = {
        folder for other, folders in _SPLIT_FOLDERS.items() if other != split for folder in folders
    }
    if own_name not in other_splits:
        yield data_dir
    else:
        # Given .../train while the validation images are wanted: they lie beside it.
        for folder in _SPLIT_FOLDERS[split]:
            yield data_dir.resolve().parent / folder


def count_notes(dataset: Dataset) -> list[str]:
    """Warn where image counts or file names of an ImageNet class list are not those of ILSVRC-2012."""
    counts, split, total = dataset.counts, dataset.split, len(dataset)
    whole = len(counts) == len(dataset.all_class_names)
    foreign = _images_of_other_split(dataset)
    fastai_name, fastai_total = _FASTAI_TOTALS.get((dataset.name, split), ("", -1))
    if foreign or (whole and total == fastai_total):
        source = f"fastai's {fastai_name}" if whole and total == fastai_total else "a re-split (fastai's way)"
        moved = f", {foreign:,} from the other ILSVRC split" if foreign else ""
        return [
            f"{total:,} images{moved}: this is {source}, not ILSVRC-2012; published figures use ILSVRC-2012 "
            "(its results differ), and most images of a fastai validation folder are ImageNet training "
            "images, which pretrained models have seen"
        ]
    notes = []
    expected = _ILSVRC_TOTALS.get((dataset.name, split))
    if whole and expected is not None and total != expected:
        notes.append(f"{total:,} images, but ILSVRC-2012 {split} has {expected:,} for {dataset.name}")
    least, most = _PER_CLASS[split]
    odd = [f"{name} {count}" for name, count in counts.items() if not least <= count <= most]
    if odd:
        span = f"{least}" if least == most else f"{least} to {most:,}"
        notes.append(f"ILSVRC-2012 {split} has {span} images per class, got {listed(odd)}")
    return notes


def _images_of_other_split(dataset: Dataset) -> int:
    """Validation images are named ILSVRC2012_val_*, training images after their wnid."""
    if dataset.split == "train":
        return sum(_count_prefix(cls.images, _VAL_FILE_PREFIX) for cls in dataset.classes)
    return sum(_count_prefix(cls.images, f"{cls.name}_") for cls in dataset.classes)


def _count_prefix(images: ImageSource, prefix: str) -> int:
    """Names are sorted, so those with a prefix lie together: two binary searches a class."""
    positions = range(len(images))
    first = bisect_left(positions, prefix, key=images.name)
    return bisect_left(positions, prefix + chr(0x10FFFF), lo=first, key=images.name) - first
