"""One evaluation, decided: folders and dataset matched, recipes filled in, images read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.datasets import IMAGENET_NAMES, Dataset, describe
from mgd3_fast.datasets.holdout import held_out_part
from mgd3_fast.datasets.opening import open_source
from mgd3_fast.devices import device_name, resolve_device
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.accuracy import count_correct
from mgd3_fast.evaluate.images import ImageSet, StoredImage, load_images
from mgd3_fast.evaluate.networks import build_network, check_network_name
from mgd3_fast.evaluate.presets import Preset, default_networks, find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.evaluate.teacher import load_teacher
from mgd3_fast.progress import Progress
from mgd3_fast.writers.labelled import LabelledFolder, distinct_names
from mgd3_fast.writers.reader import read_classes

_LEAST_OVER_CHANCE = 2.0


@dataclass(frozen=True, eq=False)
class Training:
    """One network on one folder.

    Args:
        network: Its name.
        folder: What the folder is called in results.
        ipc: Images per class.
        recipe: How.
        train: The folder's images.
        test: The test images.
    """

    network: str
    folder: str
    ipc: int
    recipe: Recipe
    train: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Teacher:
    """What labels batches, and what is recorded of it."""

    network: nn.Module
    record: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """An evaluation whose every choice is made.

    Args:
        config: What was asked for.
        dataset: The images that are tested on.
        preset: Sizes, networks and epochs.
        device: Where.
        folders: The distilled folders by their names in results.
        trainings: Every network on every folder, networks first.
        teacher: For the soft protocol.
    """

    config: EvaluateConfig
    dataset: Dataset
    preset: Preset
    device: torch.device
    folders: Mapping[str, LabelledFolder]
    trainings: tuple[Training, ...]
    teacher: Teacher | None

    @property
    def seeds(self) -> range:
        """Seeds of the repeats."""
        return range(self.config.seed, self.config.seed + self.config.repeats)


def make_plan(config: EvaluateConfig, progress: Progress) -> Plan:
    """Match folders and dataset, decide every setting, and read the images.

    Args:
        config: What is asked for.
        progress: Receives bars and notes.

    Returns:
        The plan; nothing is written.

    Raises:
        UserError: If something named does not exist or does not fit.
    """
    for name in (*(config.networks or ()), *filter(None, [config.teacher_network])):
        check_network_name(name)
    device = resolve_device(config.device)
    dataset = _open_tested(config, progress)
    progress.note(describe(dataset))
    found = [read_classes(path, dataset, "each of folders", config.ipc) for path in config.folders]
    folders = dict(zip(distinct_names(found), found, strict=True))
    first = load_images(_stored(found[0], dataset)[:1], None, None, name="first image")
    side = min(first.pixels.shape[2:])
    preset = find_preset(config.preset, dataset.name, side, dataset.name in IMAGENET_NAMES)
    networks = config.networks or default_networks(
        preset, config.protocol, config.size or preset.hard.size or side
    )
    recipes = {
        (network, name): make_recipe(
            config, preset, network, ipc=folder.ipc, num_classes=len(dataset.classes), side=side
        )
        for network in networks
        for name, folder in folders.items()
    }
    for (network, _), recipe in recipes.items():
        _check_network(network, len(dataset.classes), recipe.size)
    for name, folder in folders.items():
        for note in _notes(name, folder, dataset):
            progress.note(note)
    trainings = _with_images(recipes, folders, dataset, device, progress)
    teacher = _open_teacher(config, preset, dataset, trainings[0], device, progress)
    return Plan(config, dataset, preset, device, folders, trainings, teacher)


def describe_plan(plan: Plan) -> str:
    """Say in two lines what is about to be done."""
    config, recipe = plan.config, plan.trainings[0].recipe
    networks = ", ".join(dict.fromkeys(training.network for training in plan.trainings))
    return (
        f"protocol {config.protocol}, preset {plan.preset.name}: {networks} at {recipe.size} px,"
        f" {recipe.epochs} epochs in batches of {recipe.batch_size}, {config.precision} on"
        f" {device_name(plan.device)}\n"
        f"{len(plan.folders)} folders x {config.repeats} seeds, tested on"
        f" {len(plan.trainings[0].test):,} images of {plan.dataset.name} ({plan.dataset.split})"
    )


def _open_tested(config: EvaluateConfig, progress: Progress) -> Dataset:
    data_dir = None if config.data_dir is None else Path(config.data_dir)
    split = "train"
    if config.eval_split == "test":
        split = "val" if config.dataset in IMAGENET_NAMES else "test"
    dataset = open_source(
        config.dataset, data_dir=data_dir, classes=config.classes, split=split, progress=progress
    )
    if not isinstance(dataset, Dataset) or dataset.stream is not None:
        raise UserError(
            f"dataset must be a name or a folder to test on, got {config.dataset!r}, which is read from front"
            " to back"
        )
    return held_out_part(dataset) if config.eval_split == "val" else dataset


def _check_network(network: str, num_classes: int, size: int) -> None:
    """Find out before any work whether a network takes images of this size."""
    with torch.device("meta"):
        build_network(network, num_classes, size)


def _notes(name: str, folder: LabelledFolder, dataset: Dataset) -> list[str]:
    """What makes figures of a folder less than they seem."""
    notes = [f"{name}: {note}" for note in folder.notes]
    if not folder.manifest:
        return notes
    source = folder.manifest["dataset"]
    if source["class_list_hash"] != dataset.class_list_hash:
        notes.append(f"{name} was distilled from {source['name']}, whose class list is another one")
    if dataset.split not in ("test", "val") and source["split"] == "train":
        notes.append(
            f"{name} was distilled from all training images, those that are tested on included:"
            " distill --split fit leaves them out"
        )
    return notes


def _with_images(
    recipes: Mapping[tuple[str, str], Recipe],
    folders: Mapping[str, LabelledFolder],
    dataset: Dataset,
    device: torch.device,
    progress: Progress,
) -> tuple[Training, ...]:
    """Read every set of images once for each size that is wanted of it."""
    read: dict[tuple[str | None, int | None, int], ImageSet] = {}
    trained = {name: _stored(folder, dataset) for name, folder in folders.items()}
    tested = [
        StoredImage(label, lambda cls=cls, place=place: cls.images.load(place), cls.images.location(place))  # type: ignore[misc]
        for label, cls in enumerate(dataset.classes)
        for place in range(len(cls))
    ]
    trainings = []
    for (network, name), recipe in recipes.items():
        for key, images, resize in (
            ((name, recipe.stored_size, recipe.stored_size or 0), trained[name], recipe.stored_size),
            ((None, recipe.test_resize, recipe.size), tested, recipe.test_resize),
        ):
            if key not in read:
                label = name if key[0] else dataset.split
                read[key] = load_images(images, resize, key[2], name=label, progress=progress).on(device)
        train = read[name, recipe.stored_size, recipe.stored_size or 0]
        test = read[None, recipe.test_resize, recipe.size]
        trainings.append(Training(network, name, folders[name].ipc, recipe, train, test))
    return tuple(trainings)


def _stored(folder: LabelledFolder, dataset: Dataset) -> list[StoredImage]:
    """The images of a folder, labelled by the places of their classes in the dataset."""
    places = {name: place for place, name in enumerate(dataset.class_names)}
    return [StoredImage(places[one.class_name], one.load, str(one.path)) for one in folder.images]


def _open_teacher(
    config: EvaluateConfig,
    preset: Preset,
    dataset: Dataset,
    training: Training,
    device: torch.device,
    progress: Progress,
) -> Teacher | None:
    """Load the teacher and try it on the test images: the wrong class order shows at once."""
    if config.teacher is None:
        return None
    file, name = Path(config.teacher), config.teacher_network or preset.teacher_network
    network = load_teacher(file, name, dataset, training.recipe.size).to(device)
    correct = count_correct(network, training.test, device, config.precision == "bf16")
    accuracy, chance = 100 * correct / len(training.test), 100 / len(dataset.classes)
    progress.note(f"teacher {name} from {file.name}: {accuracy:.1f}% of the test images")
    if accuracy < _LEAST_OVER_CHANCE * chance:
        progress.note(
            f"warning: the teacher is near chance ({chance:.1f}%):"
            " are its outputs in the dataset's class order?"
        )
    record = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "network": name,
        "test_accuracy": round(accuracy, 4),
    }
    return Teacher(network, record)
