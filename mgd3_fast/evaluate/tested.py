"""The images that classifiers are tested on: a labelled split of a dataset of any kind.

"test" is the dataset's test images or, where these have no labels, its validation images; "validation" the
latter; "val" those that are held out of the training images; any other name the split of that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.datasets import IMAGENET_NAMES, Dataset, ImageStream, chosen_framing
from mgd3_fast.datasets.holdout import held_out_part
from mgd3_fast.datasets.opening import open_source
from mgd3_fast.errors import UnlabelledError, UserError, listed
from mgd3_fast.evaluate.results import majority
from mgd3_fast.evaluate.spool import read_once
from mgd3_fast.progress import Progress
from mgd3_fast.writers.reader import recorded_framings

_TRAIN = re.compile("(?<![A-Za-z0-9])train(?![A-Za-z0-9])")
_BRACES = re.compile(r"\{[^{}]*\}")
_SPLITS = {"test": ("test", "val", "validation"), "validation": ("validation", "val")}


def open_tested(config: EvaluateConfig, progress: Progress) -> Dataset:
    """Open the images to test on, framed as those of the distilled folders; a stream is read once, whole.

    Raises:
        UserError: There is no such split, or none with labels.
    """
    recorded = recorded_framings(config.folders, "each of folders")
    return replace(open_split(config, progress), framing=chosen_framing(config, recorded, progress))


def open_split(config: EvaluateConfig, progress: Progress) -> Dataset:
    """Open the images to test on, framed by default; see `open_tested`."""
    if config.eval_split == "val":
        opened = _open(config, config.dataset, "train", progress)
        if isinstance(opened, Dataset) and opened.stream is None:
            return held_out_part(opened)
        raise UserError(
            f"eval_split must name a split of {config.dataset}, got val: no images can be held out of a"
            " stream"
        )
    if config.dataset.startswith("wds:"):
        return _open_shards(config, progress)
    split = config.eval_split
    if config.dataset in IMAGENET_NAMES and split in _SPLITS:
        split = "val"  # ILSVRC's test images have no labels
    opened = _open(config, config.dataset, split, progress)
    note = None
    if (reason := _unlabelled(opened)) is not None and split == "test":
        note = f"the test images are unlabelled, the validation images are taken ({reason})"
        opened = _open(config, config.dataset, "val", progress)
    dataset = _whole(opened, config, progress)
    return dataset if note is None else replace(dataset, notes=[*dataset.notes, note])


def check_covered(folders: Iterable[str], path: Path, dataset: Dataset) -> None:
    """Refuse a distilled folder for classes of the dataset that have no images to test on.

    Args:
        folders: Its class folders, called by names or labels.
        path: Where it lies.
        dataset: All that there is to test on.

    Raises:
        UserError: It says what the dataset lacks: nothing is wrong with the folder.
    """
    held, opened = set(folders), dataset.class_names
    lacking = [
        name
        for label, name in enumerate(dataset.all_class_names)
        if name not in opened and not held.isdisjoint((name, f"{label:05d}"))
    ]
    if lacking:
        raise UserError(
            f"{dataset.name} has no {dataset.split} images of {listed(lacking)}, but {path} holds these"
            " classes: choose another --eval-split, or leave them out with --classes"
        )


def _open(config: EvaluateConfig, spec: str, split: str, progress: Progress) -> Dataset | ImageStream:
    return open_source(spec, data_dir=config.data_dir, classes=config.classes, split=split, progress=progress)


def _whole(opened: Dataset | ImageStream, config: EvaluateConfig, progress: Progress) -> Dataset:
    """The dataset; of a stream, whose images cannot be read in any order, with its images beside it."""
    if isinstance(opened, Dataset):
        if opened.stream is None:
            return opened
        opened = opened.stream
    split = getattr(opened, "split", config.eval_split)
    return read_once(opened, config.classes, split, progress)


def _unlabelled(opened: Dataset | ImageStream) -> str | None:
    """Why the first image of a stream has no label; None where it has one, or nothing is streamed."""
    stream = opened.stream if isinstance(opened, Dataset) else opened
    if stream is None:
        return None
    try:
        next(stream.read(0), None)
    except UnlabelledError as error:
        return str(error)
    return None


def _open_shards(config: EvaluateConfig, progress: Progress) -> Dataset:
    """WebDataset shards have no splits: those of training are named by the word "train", others alike."""
    spec, split = config.dataset, config.eval_split
    left_out: list[str] = []
    found = list(_shards_of(spec, split))
    for place, (name, shards) in enumerate(found):
        try:
            dataset = _whole(_open(config, shards, "train", progress), config, progress)
        except UnlabelledError as error:
            if place + 1 == len(found):
                raise
            left_out.append(f"the {name} shards are unlabelled and not read ({error})")
            continue
        return replace(dataset, split=name, notes=[*dataset.notes, *left_out])
    raise UserError(
        f"no shards of split {split} were found: they must be called like {spec}, with"
        f" {listed(_SPLITS.get(split, (split,)))} instead of train. Give the shards to test on as"
        " --dataset, or --eval-split train to test on these"
    )


def _shards_of(spec: str, split: str) -> Iterator[tuple[str, str]]:
    """Splits that may be meant and are there, by their names and specifications."""
    pattern, mark, options = spec.rpartition("#") if "#" in spec else (spec, "", "")
    if split == "train" or not _TRAIN.search(pattern):
        yield split, spec
        return
    for name in _SPLITS.get(split, (split,)):
        # As many shards as there are: another split has another number of them.
        other = _BRACES.sub("*", _TRAIN.sub(name, pattern))
        if glob(str(Path(other.removeprefix("wds:")).expanduser())):  # noqa: PTH207 - may be absolute
            yield name, other + mark + options


def dataset_record(dataset: Dataset, labels: Tensor) -> dict[str, Any]:
    """What a result says of the images that are tested on.

    Args:
        dataset: The images.
        labels: int64 [N], of those that can be read.
    """
    images = torch.bincount(labels.cpu(), minlength=len(dataset.classes)).tolist()
    counts = dict(zip(dataset.class_names, images, strict=True))
    return {
        "name": dataset.name,
        "split": dataset.split,
        "classes": len(dataset.classes),
        "images": len(labels),
        "skipped": len(dataset) - len(labels),
        **dataset.framing.options(),
        "images_by_class": counts,
        "majority": majority(counts),
        "fingerprint": dataset.fingerprint,
        "class_list_hash": dataset.class_list_hash,
        "notes": list(dataset.notes),
    }
