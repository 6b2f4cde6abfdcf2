"""A quick classifier: what samples teach it, beside what as many real images do.

Shape letters: N images, R pixels a side, S side that the classifier sees.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.evaluate.presets import find_preset
from mgd3_fast.evaluate.recipe import Recipe, make_recipe
from mgd3_fast.evaluate.training import Job, train_classifier
from mgd3_fast.progress import SILENT, Progress

NETWORK = "convnet3w32-in"
STEPS = 400
_LARGEST_SIDE = 32


def shrunk(images: Tensor) -> Tensor:
    """Images uint8 `[N, 3, R, R]` at the classifier's size, at most 32 pixels a side."""
    side = min(_LARGEST_SIDE, images.shape[-1])
    smaller = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).to(torch.uint8)


def quick_recipe(dataset: str, num_classes: int, images: int, side: int) -> Recipe:
    """The small protocol's hard labels, shortened to about 400 steps and tested once, at the end."""
    config = EvaluateConfig(folders=(Path(),), dataset=dataset, size=side, tests=1)
    preset = find_preset("auto", dataset, side, imagenet=False)
    recipe = make_recipe(
        config, preset, NETWORK, ipc=-(-images // num_classes), num_classes=num_classes, side=side
    )
    epochs = max(1, STEPS // -(-images // recipe.batch_size))
    return replace(recipe, epochs=epochs, test_every=epochs)


def taught_accuracy(
    recipe: Recipe,
    train: ImageSet,
    test: ImageSet,
    *,
    num_classes: int,
    seed: int,
    device: torch.device,
    name: str,
    progress: Progress = SILENT,
) -> float:
    """Train the classifier on some images and test it on others.

    Args:
        recipe: How.
        train: Labels from 0, images at the recipe's size.
        test: Likewise.
        num_classes: Its outputs.
        seed: Of weights, order and augmentation.
        device: Where.
        name: What it learns from, for the bar.
        progress: Receives the bar.

    Returns:
        Share of the test images that it labels right after the last epoch.
    """
    job = Job(
        network=NETWORK,
        recipe=recipe,
        num_classes=num_classes,
        seed=seed,
        train=train,
        test=test,
        teacher=None,
        device=device,
    )
    with (
        TemporaryDirectory() as folder,
        progress.stage(f"classifier on {name}", total=recipe.epochs, unit="epoch") as bar,
    ):
        outcome, _ = train_classifier(job, Path(folder) / "state.pt", bar)
    return float(outcome["last"]) / 100
