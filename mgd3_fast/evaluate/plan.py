"""One evaluation, decided: folders and dataset matched, recipes filled in, images read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.datasets import IMAGENET_NAMES, Dataset, describe
from mgd3_fast.devices import device_name, resolve_device
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.images import ImageSet, StoredImage, load_images
from mgd3_fast.evaluate.networks import build_network, check_network_name
from mgd3_fast.evaluate.objective import count_correct
from mgd3_fast.evaluate.presets import Preset, default_networks, find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.evaluate.sets import TrainingSet, common_side, note_of_sides, read_sets, stored_images
from mgd3_fast.evaluate.teacher import load_teacher
from mgd3_fast.evaluate.tested import open_tested
from mgd3_fast.evaluate.training import Job
from mgd3_fast.progress import Progress

if TYPE_CHECKING:
    from torch import nn

_LEAST_OVER_CHANCE = 2.0

Pair = tuple[str, str]
"""A network, and the set of images it is trained on, by their names."""


@dataclass(frozen=True)
class Plan:
    """An evaluation whose every choice is made.

    Args:
        config: What was asked for.
        dataset: The images that are tested on.
        preset: Name of the preset.
        device: Where.
        sets: What is trained on, by names in results.
        jobs: Every network on every set, networks first, with the seed of the first repeat.
        teacher: What is recorded of it; None but for the soft protocol.
    """

    config: EvaluateConfig
    dataset: Dataset
    preset: str
    device: torch.device
    sets: Mapping[str, TrainingSet]
    jobs: Mapping[Pair, Job]
    teacher: dict[str, Any] | None

    @property
    def seeds(self) -> range:
        """Seeds of the repeats."""
        return range(self.config.seed, self.config.seed + self.config.repeats)

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return Path(self.config.out)

    def with_repeats(self, repeats: int) -> Plan:
        """The same plan with another number of repeats."""
        return replace(self, config=replace(self.config, repeats=repeats))

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
            f"{len(self.sets)} folders x {config.repeats} seeds, tested on"
            f" {len(self.first.test):,} images of {self.dataset.name} ({self.dataset.split})"
        )


def make_plan(config: EvaluateConfig, progress: Progress, dataset: Dataset | None = None) -> Plan:
    """Match folders and dataset, decide every setting, and read the images; nothing is written.

    Args:
        config: What was asked for.
        progress: Receives bars and notes.
        dataset: The images to test on, if they are open already.

    Raises:
        UserError: If something named does not exist or does not fit.
    """
    for name in (*(config.networks or ()), *filter(None, [config.teacher_network])):
        check_network_name(name)
    device = resolve_device(config.device)
    if dataset is None:
        dataset = open_tested(config, progress)
        progress.note(describe(dataset))
    sets = read_sets(config, dataset, progress)
    side = common_side(sets)
    preset = preset_of(config, dataset, side)
    recipes = make_recipes(config, preset, {name: one.ipc for name, one in sets.items()}, dataset, side)
    first = next(iter(recipes.values()))
    notes = [*(note for one in sets.values() for note in one.notes), note_of_sides(sets, first.size)]
    for note in filter(None, notes):
        progress.note(note)
    images = _reader(config, sets, dataset, device, progress)
    teacher, record = None, None
    if config.teacher is not None:
        name = config.teacher_network or preset.rows["soft"].networks[0]
        teacher = load_teacher(Path(config.teacher), name, dataset, first.size).to(device)
        test = images(None, first.test_resize, first.size)
        correct = count_correct(teacher, test, device, config.precision == "bf16")
        chance = 100 / len(dataset.classes)
        record = _teacher_record(Path(config.teacher), name, 100 * correct / len(test), chance, progress)
    jobs = {
        (network, name): job_of(
            config,
            network,
            recipe,
            train=images(name, recipe.stored_size, recipe.stored_size),
            test=images(None, recipe.test_resize, recipe.size),
            num_classes=len(dataset.classes),
            device=device,
            teacher=teacher,
        )
        for (network, name), recipe in recipes.items()
    }
    return Plan(config, dataset, preset.name, device, sets, jobs, record)


def preset_of(config: EvaluateConfig, dataset: Dataset, side: int) -> Preset:
    """The preset that was asked for, or the one that suits a dataset and images of a side in pixels."""
    return find_preset(config.preset, dataset.name, side, dataset.name in IMAGENET_NAMES)


def make_recipes(
    config: EvaluateConfig, preset: Preset, ipcs: Mapping[str, int], dataset: Dataset, side: int
) -> dict[Pair, Recipe]:
    """Decide how each network is trained on each set of images, and check all of it.

    Args:
        config: What was asked for.
        preset: Rows of the protocols.
        ipcs: Images per class by the names of the sets.
        dataset: The images that are tested on.
        side: Of the sets' images, in pixels.

    Raises:
        UserError: Something does not fit, or the protocol says nothing of it.
    """
    size, num_classes = config.size or preset.rows["hard"].size or side, len(dataset.classes)
    if num_classes < 2:
        raise UserError(f"dataset must have at least 2 classes to tell apart, got {num_classes}")
    networks = config.networks or default_networks(preset, config.protocol, size)
    recipes = {
        (network, name): make_recipe(config, preset, network, ipc=ipc, num_classes=num_classes, side=side)
        for network in networks
        for name, ipc in ipcs.items()
    }
    with torch.device("meta"):  # finds out whether each network takes images of its size
        for (network, _), recipe in recipes.items():
            build_network(network, num_classes, recipe.size)
    return recipes


def job_of(
    config: EvaluateConfig,
    network: str,
    recipe: Recipe,
    *,
    train: ImageSet,
    test: ImageSet,
    num_classes: int,
    device: torch.device,
    teacher: nn.Module | None = None,
) -> Job:
    """A training with the seed of the first repeat."""
    return Job(
        network=network,
        recipe=recipe,
        num_classes=num_classes,
        seed=config.seed,
        train=train,
        test=test,
        teacher=teacher,
        device=device,
        bf16=config.precision == "bf16",
        compiled=config.compile == "on",
    )


def _reader(
    config: EvaluateConfig,
    sets: Mapping[str, TrainingSet],
    dataset: Dataset,
    device: torch.device,
    progress: Progress,
) -> Callable[[str | None, int | None, int | None], ImageSet]:
    """A function that reads a set, or the test images, once for each size that is wanted."""
    stored: dict[str | None, tuple[StoredImage, ...]] = {name: one.images for name, one in sets.items()}
    stored[None] = stored_images(dataset)
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
