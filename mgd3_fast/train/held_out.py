"""The loss of images that are not trained on, and when it says that a training has gone on for too long."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mgd3_fast.config.train import TrainConfig
from mgd3_fast.datasets import Dataset
from mgd3_fast.datasets.holdout import chosen_images, open_held_out
from mgd3_fast.datasets.spreading import spread

MOST_IMAGES = 256
_MEASURED = 20  # times a training
_FORWARD_SHARE = 3  # a step costs about three forward passes of its batch
_MOST_COST = 0.02
_LONG, _RISE = 1 / 3, 0.02

StepLoss = Callable[[nn.Module, int], dict[str, Tensor]]


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean loss of some images, with the same noise, timesteps and order in every call.

    Args:
        batch_loss: (network, batch from 0) to named scalar losses.
        batches: How many batches there are.
        images: How many images they hold.
    """

    batch_loss: StepLoss
    batches: int
    images: int

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> float:
        """The mean; the network is left in training mode."""
        network.eval()
        losses = [float(self.batch_loss(network, batch)["loss"]) for batch in range(self.batches)]
        network.train()
        return math.fsum(losses) / len(losses)

    def period(self, steps: int, batch_size: int) -> int:
        """Steps from one measurement to the next: twenty a training, at most a fiftieth of its time."""
        affordable = self.images / (_MOST_COST * _FORWARD_SHARE * batch_size)
        return max(1, steps // _MEASURED, math.ceil(affordable))


def open_held_out_images(config: TrainConfig, dataset: Dataset) -> Dataset | None:
    """At most 256 images that the training leaves alone, of all its classes or of evenly spread ones.

    Args:
        config: What it is trained on.
        dataset: The same, opened.

    Returns:
        Some of the dataset's val split or, with `split` "fit", of what that leaves out; None where there is
        neither.
    """
    if dataset.stream is not None:
        return None
    opened = open_held_out(
        config.dataset,
        config.split,
        data_dir=config.data_dir,
        classes=config.classes,
        cache_dir=config.cache_dir,
    )
    if opened is None:
        return None
    classes = [one for one in opened.classes if len(one) and one.name in dataset.class_names]
    if not classes:
        return None
    return few_images(replace(opened, classes=tuple(classes), framing=dataset.framing))


def few_images(dataset: Dataset) -> Dataset:
    """At most 256 images of a dataset: of all classes, or one each of 256 evenly spread ones."""
    kept = [dataset.classes[place] for place in spread(len(dataset.classes), MOST_IMAGES)]
    return chosen_images(replace(dataset, classes=tuple(kept)), max(1, MOST_IMAGES // len(kept)))


def best_before_rise(points: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The lowest point of a held-out loss that has risen since for long, or None.

    For long is a third of the steps so far and at least four measurements; risen is by 2%.

    Args:
        points: "step" and "loss" of each measurement, in order.
    """
    lowest = min(range(len(points)), key=lambda place: points[place]["loss"], default=0)
    if len(points) - lowest < 5:
        return None
    best, last = points[lowest], points[-1]
    long = last["step"] - best["step"] >= _LONG * last["step"]
    risen = min(point["loss"] for point in points[-2:]) > best["loss"] + _RISE * abs(best["loss"])
    return best if long and risen else None
