"""One evaluation, decided: folders and dataset matched, recipes filled in, images read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.datasets import IMAGENET_NAMES, Dataset, describe
from mgd3_fast.datasets.folders import class_folders
from mgd3_fast.devices import device_name, resolve_device
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.images import ImageSet, StoredImage, load_images
from mgd3_fast.evaluate.networks import build_network, check_network_name
from mgd3_fast.evaluate.objective import count_correct
from mgd3_fast.evaluate.presets import Preset, default_networks, find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.evaluate.teacher import load_teacher
from mgd3_fast.evaluate.tested import check_covered, open_tested
from mgd3_fast.evaluate.training import Job
from mgd3_fast.progress import Progress
from mgd3_fast.writers.labelled import LabelledFolder, distinct_names
from mgd3_fast.writers.reader import read_classes

_LEAST_OVER_CHANCE = 2.0

Pair = tuple[str, str]
"""A network, and the folder it is trained on, by their names."""


@dataclass(frozen=True)
class Plan:
    """An evaluation whose every choice is made.

    Args:
        config: What was asked for.
        dataset: The images that are tested on.
        preset: Name of the preset.
        device: Where.
        folders: The distilled folders by their names in results.
        jobs: Every network on every folder, networks first, with the seed of the first repeat.
        teacher: What is recorded of it; None but for the soft protocol.
    """

    config: EvaluateConfig
    dataset: Dataset
    preset: str
    device: torch.device
    folders: Mapping[str, LabelledFolder]
    jobs: Mapping[Pair, Job]
    teacher: dict[str, Any] | None

    @property
    def seeds(self) -> range:
        """Seeds of the repeats."""
        return range(self.config.seed, self.config.seed + self.config.repeats)

    @property
    def first(self) -> Job:
        """The first job, for what all have in common."""
        return next(iter(self.jobs.values()))

    def describe(self) -> str:
        """Say in two lines what is about to be done."""
        config, recipe = self.config, self.first.recipe
        networks = ", ".join(dict.fromkeys(network for network, _ in self.jobs))
        sizes = " and ".join(dict.fromkeys(str(job.recipe.size) for job in self.jobs.values()))
        return (
            f"protocol {config.protocol}, preset {self.preset}: {networks} at {sizes} px,"
            f" {recipe.epochs} epochs in batches of {recipe.batch_size}, {config.precision} on"
            f" {device_name(self.device)}\n"
            f"{len(self.folders)} folders x {config.repeats} seeds, tested on"
            f" {len(self.first.test):,} images of {self.dataset.name} ({self.dataset.split})"
        )


def make_plan(config: EvaluateConfig, progress: Progress) -> Plan:
    """Match folders and dataset, decide every setting, and read the images; nothing is written.

    Raises:
        UserError: If something named does not exist or does not fit.
    """
    for name in (*(config.networks or ()), *filter(None, [config.teacher_network])):
        check_network_name(name)
    device = resolve_device(config.device)
    dataset = open_tested(config, progress)
    progress.note(describe(dataset))
    num_classes = len(dataset.classes)
    found = [_read_folder(path, dataset, config) for path in config.folders]
    folders = dict(zip(distinct_names(found), found, strict=True))
    side = min(found[0].images[0].load().size)
    preset = find_preset(config.preset, dataset.name, side, dataset.name in IMAGENET_NAMES)
    recipes = _recipes(config, preset, folders, num_classes, side)
    for name, folder in folders.items():
        for note in _notes(name, folder, dataset):
            progress.note(note)
    images = _reader(config, folders, dataset, device, progress)
    first = next(iter(recipes.values()))
    teacher, record = None, None
    if config.teacher is not None:
        name = config.teacher_network or preset.rows["soft"].networks[0]
        teacher = load_teacher(Path(config.teacher), name, dataset, first.size).to(device)
        test = images(None, first.test_resize, first.size)
        correct = count_correct(teacher, test, device, config.precision == "bf16")
        accuracy = 100 * correct / len(test)
        record = _teacher_record(Path(config.teacher), name, accuracy, 100 / num_classes, progress)
    jobs = {
        (network, name): Job(
            network=network,
            recipe=recipe,
            num_classes=num_classes,
            seed=config.seed,
            train=images(name, recipe.stored_size, recipe.stored_size),
            test=images(None, recipe.test_resize, recipe.size),
            teacher=teacher,
            device=device,
            bf16=config.precision == "bf16",
            compiled=config.compile == "on",
        )
        for (network, name), recipe in recipes.items()
    }
    return Plan(config, dataset, preset.name, device, folders, jobs, record)


def _read_folder(path: Path, dataset: Dataset, config: EvaluateConfig) -> LabelledFolder:
    try:
        return read_classes(path, dataset, "each of folders", config.ipc)
    except UserError:
        if config.classes is None and path.is_dir():
            check_covered(class_folders(path), path, dataset)
        raise


def _recipes(
    config: EvaluateConfig,
    preset: Preset,
    folders: Mapping[str, LabelledFolder],
    num_classes: int,
    side: int,
) -> dict[Pair, Recipe]:
    """How each network is trained on each folder, all of it checked before any image is read."""
    size = config.size or preset.rows["hard"].size or side
    networks = config.networks or default_networks(preset, config.protocol, size)
    recipes = {
        (network, name): make_recipe(
            config, preset, network, ipc=folder.ipc, num_classes=num_classes, side=side
        )
        for network in networks
        for name, folder in folders.items()
    }
    with torch.device("meta"):  # finds out whether each network takes images of its size
        for (network, _), recipe in recipes.items():
            build_network(network, num_classes, recipe.size)
    return recipes


def _notes(name: str, folder: LabelledFolder, dataset: Dataset) -> list[str]:
    """What makes figures of a folder less than they seem."""
    notes = [f"{name}: {note}" for note in folder.notes]
    if not folder.manifest:
        return notes
    source = folder.manifest["dataset"]
    if source["class_list_hash"] != dataset.class_list_hash:
        notes.append(f"{name} was distilled from {source['name']}, whose class list is another one")
    if dataset.split in ("train", "val of train") and source["split"] == "train":
        notes.append(
            f"{name} was distilled from all training images, those that are tested on included:"
            " distill --split fit leaves them out"
        )
    return notes


def _reader(
    config: EvaluateConfig,
    folders: Mapping[str, LabelledFolder],
    dataset: Dataset,
    device: torch.device,
    progress: Progress,
) -> Callable[[str | None, int | None, int | None], ImageSet]:
    """A function that reads a folder's images, or the test images, once for each size that is wanted."""
    places = {name: place for place, name in enumerate(dataset.class_names)}
    stored: dict[str | None, list[StoredImage]] = {
        name: [StoredImage(places[one.class_name], one.load, str(one.path)) for one in folder.images]
        for name, folder in folders.items()
    }
    stored[None] = [
        StoredImage(label, lambda cls=cls, place=place: cls.images.load(place), cls.images.location(place))  # type: ignore[misc]
        for label, cls in enumerate(dataset.classes)
        for place in range(len(cls))
    ]
    skipped: dict[str, str] | None = {} if config.on_bad_image == "skip" else None

    @cache
    def images(name: str | None, resize: int | None, size: int | None) -> ImageSet:
        shown = name or dataset.split
        found = load_images(
            stored[name],
            resize,
            size,
            name=shown,
            framing=dataset.framing,
            skipped=skipped,
            progress=progress,
        )
        return found.on(device)

    return images


def _teacher_record(
    file: Path, network: str, accuracy: float, chance: float, progress: Progress
) -> dict[str, Any]:
    """Describe the teacher, and say how many test images it knows: the wrong class order shows at once."""
    progress.note(f"teacher {network} from {file.name}: {accuracy:.1f}% of the test images")
    if accuracy < _LEAST_OVER_CHANCE * chance:
        progress.note(
            f"warning: the teacher is near chance ({chance:.1f}%):"
            " are its outputs in the dataset's class order?"
        )
    return {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "network": network,
        "test_accuracy": round(accuracy, 4),
    }
