"""One classifier trained and tested on one set of images.

Every random number of a step is a function of (seed, purpose, step), so that a training killed at any moment
and started again ends as one that was not, and that two folders of equal size see the same starting weights,
the same order, the same crops and the same boxes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.evaluate.accuracy import count_correct
from mgd3_fast.evaluate.augmentation import augment_batch
from mgd3_fast.evaluate.mixing import mix
from mgd3_fast.evaluate.networks import build_network
from mgd3_fast.evaluate.objective import batch_loss, make_optimizer, taught_logits
from mgd3_fast.evaluate.schedules import rate_share
from mgd3_fast.train.checkpoint import load_checkpoint, save_checkpoint
from mgd3_fast.train.fitting import step_generator
from mgd3_fast.train.interrupt import postponed_interrupt

if TYPE_CHECKING:
    from mgd3_fast.evaluate.images import ImageSet
    from mgd3_fast.evaluate.recipe import Recipe
    from mgd3_fast.progress import Bar

_CHECKPOINT_PERIOD_S = 60.0


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
    """Train one classifier, going on from a checkpoint where there is one.

    Args:
        job: What and how.
        checkpoint: File of the state of an unfinished training.
        bar: Advanced by each epoch, those of an earlier call included.

    Returns:
        The outcome: "curve" of (epoch, correct test images), "best" and "last" accuracy in percent,
        "best_epoch", mean "loss" of the last epoch, "parameters", "wall_s" and "cpu_s" of the whole training;
        and the last weights.

    Raises:
        UserError: The loss is not finite, or the checkpoint is damaged.
        Interrupted: After Ctrl-C, when the running step is finished and saved.
    """
    with _repeatable(job.device), postponed_interrupt() as interrupted:
        trainer = _Trainer(job, checkpoint)
        bar.skip(trainer.epoch)
        while trainer.epoch < job.recipe.epochs:
            before = trainer.epoch
            trainer.advance()
            if trainer.epoch > before:
                bar.advance()
            if interrupted():
                trainer.save()
                raise Interrupted(f"stopped in epoch {trainer.epoch + 1} of {job.recipe.epochs}")
            if trainer.is_due() and trainer.epoch < job.recipe.epochs:
                trainer.save()
        return trainer.outcome(), trainer.tested.state_dict()


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
    """Network, optimiser, averaged weights and accuracies after some steps."""

    def __init__(self, job: Job, checkpoint: Path) -> None:
        self.job, self.checkpoint = job, checkpoint
        recipe = job.recipe
        self._seed_torch("weights")
        self.network = build_network(job.network, job.num_classes, recipe.size)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = recipe.bn_momentum
        self.network.to(job.device)
        # What is tested: the averaged weights where the recipe has them.
        self.tested = self.network if recipe.ema is None else copy.deepcopy(self.network)
        self.optimizer = make_optimizer(self.network, recipe)
        self._run = torch.compile(self.network) if job.compiled else self.network
        self._order = torch.empty(0, dtype=torch.int64)
        self._order_epoch = -1
        self.step = 0
        self.curve: list[tuple[int, int]] = []
        self._losses = torch.zeros((), device=job.device)
        self._last_loss = math.nan
        self._spent = (0.0, 0.0)
        state = load_checkpoint(checkpoint)
        if state is not None:
            self._restore(state)
        self._started = (time.perf_counter(), time.process_time())
        self._saved_s = time.monotonic()

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.job.train) // self.job.recipe.batch_size)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    def advance(self) -> None:
        """Do one step; after an epoch's last one, average and test."""
        job, recipe = self.job, self.job.recipe
        generator = step_generator(job.seed, "augment", self.step)
        self._seed_torch("dropout", self.step)
        pixels, labels = job.train.batch(self._indices(), job.device)
        images = augment_batch(pixels, recipe, generator)
        mixed = None
        if recipe.mix != "none" and float(torch.rand((), generator=generator)) < recipe.mix_probability:
            mixed = mix(images, recipe.mix, recipe.mix_alpha, generator)
            images = mixed.images
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * rate_share(recipe.schedule, self.epoch, recipe.epochs)
        self.network.train()
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.bf16):
            logits = self._run(images)
            taught = None if job.teacher is None else taught_logits(job.teacher, images)
        loss = batch_loss(logits.float(), labels, mixed, taught, recipe.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._losses += loss.detach()
        self.step += 1
        if self.step % self.steps_per_epoch == 0:
            self._end_epoch()

    def _end_epoch(self) -> None:
        recipe = self.job.recipe
        if recipe.ema is not None:
            self._average(recipe.ema)
        self._last_loss = float(self._losses) / self.steps_per_epoch
        self._losses.zero_()
        if not math.isfinite(self._last_loss):
            raise UserError(
                f"loss must stay finite, got {self._last_loss} in epoch {self.epoch} of {self.job.network}:"
                " lower the learning rate (--lr)"
            )
        if recipe.is_tested(self.epoch):
            correct = count_correct(self.tested, self.job.test, self.job.device, self.job.bf16)
            self.curve.append((self.epoch, correct))

    def _average(self, decay: float) -> None:
        """GLaD's average, once an epoch; its decay after e epochs is min(decay, 1 - 1 / e)."""
        share = min(decay, 1 - 1 / self.epoch)
        with torch.no_grad():
            for averaged, current in zip(
                self.tested.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                if averaged.is_floating_point():
                    averaged.lerp_(current, 1 - share)
                else:
                    averaged.copy_(current)

    def _indices(self) -> Tensor:
        """Images of the next step: every one once an epoch, the last batch with what is left."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if epoch != self._order_epoch:
            generator = step_generator(self.job.seed, "order", epoch)
            self._order, self._order_epoch = torch.randperm(len(self.job.train), generator=generator), epoch
        B = self.job.recipe.batch_size
        return self._order[place * B : (place + 1) * B]

    def _seed_torch(self, *purpose: int | str) -> None:
        """Seed what cannot be handed a generator: starting weights and dropout."""
        torch.manual_seed(step_generator(self.job.seed, *purpose).initial_seed())

    def is_due(self) -> bool:
        """Whether the last save is long enough ago for the next one."""
        return time.monotonic() - self._saved_s >= _CHECKPOINT_PERIOD_S

    def save(self) -> None:
        """Write everything that `_restore` needs."""
        self._saved_s = time.monotonic()
        state: dict[str, Any] = {
            "step": self.step,
            "network": self.network.state_dict(),
            "tested": self.tested.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curve": [list(point) for point in self.curve],
            "losses": self._losses,
            "last_loss": self._last_loss,
            "spent": list(self._time_spent()),
        }
        save_checkpoint(self.checkpoint, state)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.network.load_state_dict(state["network"])
            self.tested.load_state_dict(state["tested"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.curve = [(int(epoch), int(correct)) for epoch, correct in state["curve"]]
            self._losses.copy_(state["losses"])
            self._last_loss = state["last_loss"]
            self._spent = (state["spent"][0], state["spent"][1])
            self.step = state["step"]
        except (KeyError, RuntimeError, ValueError, TypeError):
            raise UserError(
                f"{self.checkpoint} must hold the state of this training, got another one;"
                " remove it to start again"
            ) from None

    def outcome(self) -> dict[str, Any]:
        """What came of the training."""
        wall_s, cpu_s = self._time_spent()
        best_epoch, best = max(self.curve, key=lambda point: point[1])
        share = 100 / len(self.job.test)
        return {
            "best": best * share,
            "best_epoch": best_epoch,
            "last": self.curve[-1][1] * share,
            "curve": [list(point) for point in self.curve],
            "loss": self._last_loss,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "wall_s": round(wall_s, 2),
            "cpu_s": round(cpu_s, 2),
        }

    def _time_spent(self) -> tuple[float, float]:
        """Seconds and processor seconds, those of earlier calls included."""
        return (
            self._spent[0] + time.perf_counter() - self._started[0],
            self._spent[1] + time.process_time() - self._started[1],
        )
