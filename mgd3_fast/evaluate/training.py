"""One classifier trained and tested on one set of images.

Every random number of a step is a function of (seed, purpose, step), so that a training killed at any moment
and started again ends as one that was not, and that two folders of equal size see the same starting weights,
the same order, the same crops and the same boxes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.augmentation import augment_batch
from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.evaluate.mixing import mix
from mgd3_fast.evaluate.networks import build_network
from mgd3_fast.evaluate.objective import batch_loss, make_optimizer, predict
from mgd3_fast.evaluate.scores import Scores
from mgd3_fast.fit import EpochOrder, Fit, Stateful, descend, rate_share, step_generator

if TYPE_CHECKING:
    from mgd3_fast.evaluate.recipe import Recipe
    from mgd3_fast.progress import Bar

_CHECKPOINT_PERIOD_S = 60.0
_TIMED_S, _LONG_CALL_S = 0.3, 2.0
_TIMED_IMAGES = 250


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained on what.

    Args:
        network: Name of the classifier.
        recipe: How.
        num_classes: Its outputs.
        seed: Of weights, order and augmentation.
        train: Distilled images at the recipe's stored size.
        test: Test images at the recipe's size.
        teacher: Labels every batch where the recipe has a temperature.
        device: Where.
        bf16: Run the networks under bfloat16 autocast.
        compiled: Run them through torch.compile.
    """

    network: str
    recipe: Recipe
    num_classes: int
    seed: int
    train: ImageSet
    test: ImageSet
    teacher: nn.Module | None
    device: torch.device
    bf16: bool = False
    compiled: bool = False


def train_classifier(job: Job, checkpoint: Path, bar: Bar) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train one classifier.

    Args:
        job: What and how.
        checkpoint: File of the state of an unfinished training; where there is one, it goes on from it.
        bar: Advanced by each epoch, those of an earlier call included.

    Returns:
        The outcome: "curve" of (epoch, correct test images), "best" and "last" accuracy in percent,
        "best_epoch", mean "loss" of the last epoch, "by_class" (test "images" of each class; "correct" and
        "predicted" of each in the best and in the last test), "parameters", "wall_s" and "cpu_s" of the
        whole training; and the last weights.

    Raises:
        UserError: The loss is not finite, or the checkpoint is damaged.
        Interrupted: After Ctrl-C, when the running step is finished and saved.
    """
    with _repeatable(job.device):
        trainer = _Trainer(job)
        per_epoch = trainer.order.steps_per_epoch
        fit = Fit(trainer.parts, job.recipe.epochs * per_epoch, checkpoint)
        bar.skip(fit.step // per_epoch)

        def do_step(step: int) -> None:
            trainer.descend(step)
            if (step + 1) % per_epoch == 0:
                trainer.end_epoch((step + 1) // per_epoch)
                bar.advance()

        fit.run(do_step, lambda: fit.unsaved_s >= _CHECKPOINT_PERIOD_S and fit.step < fit.steps)
        spent = {"wall_s": round(fit.wall_s, 2), "cpu_s": round(fit.cpu_s, 2)}
        return {**trainer.outcome(), **spent}, trainer.tested.state_dict()


def time_parts(job: Job) -> tuple[float, float]:
    """Measure on a network that is thrown away what a step of a training takes, and the test of an image.

    The first call of each is left out where others follow; `compiled` is not looked at.

    Returns:
        Seconds of a step, seconds of a tested image.
    """
    with _repeatable(job.device):
        trainer = _Trainer(replace(job, compiled=False))
        images = ImageSet(job.test.pixels[:_TIMED_IMAGES], job.test.labels[:_TIMED_IMAGES])
        step_s = _mean_seconds(trainer.descend, job.device)
        test_s = _mean_seconds(lambda _: predict(trainer.tested, images, job.device, job.bf16), job.device)
        return step_s, test_s / len(images)


def _mean_seconds(call: Callable[[int], object], device: torch.device) -> float:
    """Mean seconds of some calls with 1, 2, ...; of the one with 0 where it takes long enough by itself."""

    def seconds(number: int) -> float:
        started = time.perf_counter()
        call(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first, spent, calls = seconds(0), 0.0, 0
    if first > _LONG_CALL_S:
        return first
    while not calls or spent < _TIMED_S:
        calls += 1
        spent += seconds(calls)
    return spent / calls


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Leave the process's random numbers alone, and take cuDNN's repeatable algorithms."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        yield


class _Trainer:
    """A network with its optimiser, averaged weights and accuracies."""

    def __init__(self, job: Job) -> None:
        self.job = job
        recipe = job.recipe
        self._seed_torch("weights")
        self.network = build_network(job.network, job.num_classes, recipe.size)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = recipe.bn_momentum
        self.network.to(job.device)
        self.optimizer = make_optimizer(self.network, recipe)
        self.scores = Scores(job.test.labels, job.num_classes, job.device)
        self.parts: dict[str, Stateful] = {
            "network": self.network,
            "optimizer": self.optimizer,
            "scores": self.scores,
        }
        # What is tested: the averaged weights where the recipe has them.
        self.tested = self.network
        self._averaged: AveragedModel | None = None
        if recipe.ema is not None:
            average = _glad_average(recipe.ema)
            self._averaged = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
            self.parts["averaged"], self.tested = self._averaged, self._averaged.module
        self._run = torch.compile(self.network) if job.compiled else self.network
        self.order = EpochOrder(len(job.train), recipe.batch_size, job.seed)

    def descend(self, step: int) -> None:
        """Do one step."""
        job, recipe = self.job, self.job.recipe
        generator = step_generator(job.seed, "augment", step)
        self._seed_torch("dropout", step)
        pixels, labels = job.train.batch(self.order.indices(step), job.device)
        images = augment_batch(pixels, recipe, generator)
        mixed = None
        if recipe.mix != "none" and float(torch.rand((), generator=generator)) < recipe.mix_probability:
            mixed = mix(images, recipe.mix, recipe.mix_alpha, generator)
            images = mixed.images
        self.network.train()
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.bf16):
            logits = self._run(images)
            taught = None if job.teacher is None else _taught(job.teacher, images)
        loss = batch_loss(logits.float(), labels, mixed, taught, recipe.temperature)
        epoch = step // self.order.steps_per_epoch
        descend(self.optimizer, loss, recipe.lr * rate_share(recipe.schedule, epoch, recipe.epochs))
        self.scores.losses += loss.detach()

    def end_epoch(self, epoch: int) -> None:
        """Average and test after `epoch` epochs."""
        job = self.job
        if self._averaged is not None:
            self._averaged.update_parameters(self.network)
        mean = self.scores.end_epoch(self.order.steps_per_epoch)
        if not math.isfinite(mean):
            raise UserError(
                f"the loss of {job.network} became {mean} in epoch {epoch}: lower the learning rate (--lr)"
            )
        if job.recipe.is_tested(epoch):
            self.scores.add_test(epoch, predict(self.tested, job.test, job.device, job.bf16))

    def _seed_torch(self, *purpose: int | str) -> None:
        """Seed what cannot be handed a generator: starting weights and dropout."""
        torch.manual_seed(step_generator(self.job.seed, *purpose).initial_seed())

    def outcome(self) -> dict[str, Any]:
        """What came of the training."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return {**self.scores.outcome(), "parameters": parameters}


@torch.no_grad()
def _taught(teacher: nn.Module, images: Tensor) -> Tensor:
    """What the teacher says of a batch, float32 [B, N]."""
    logits: Tensor = teacher(images)
    return logits.float()


def _glad_average(decay: float) -> Callable[[PARAM_LIST, PARAM_LIST, Tensor | int], None]:
    """GLaD's average, once an epoch; its decay after e epochs is min(decay, 1 - 1 / e)."""

    def average(averaged: PARAM_LIST, current: PARAM_LIST, epochs: Tensor | int) -> None:
        share = min(decay, 1 - 1 / (int(epochs) + 1))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - share)
        else:
            torch._foreach_copy_(averaged, current)

    return average
