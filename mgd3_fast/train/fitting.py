"""The loop that both networks are trained with: AdamW, averaged weights, checkpoints, exact resumption.

Every random number of a step is a function of (seed, part, step), so that a run killed at any moment and
started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.progress import Progress
from mgd3_fast.train.checkpoint import load_checkpoint, save_checkpoint
from mgd3_fast.train.interrupt import postponed_interrupt

StepLoss = Callable[[nn.Module, int], dict[str, Tensor]]

_CURVE_POINTS = 200
_NOTE_PERIOD_S = 30.0


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How one network is fitted.

    Args:
        part: "vae" or "dit"; names the bar and separates the random numbers.
        steps: Optimiser steps.
        lr: Highest learning rate.
        weight_decay: AdamW's decoupled decay.
        schedule: "constant" or "cosine" (to zero at the last step), after a linear warm-up.
        warmup: Steps of the warm-up.
        ema: Decay of the averaged weights per step.
        clip_grad: Largest norm of the gradient, or None.
        bf16: Run the forward pass under bfloat16 autocast.
        checkpoint_every: Steps between checkpoints.
        device: Where the network is trained.
    """

    part: str
    steps: int
    lr: float
    weight_decay: float
    schedule: str
    warmup: int
    ema: float
    clip_grad: float | None
    bf16: bool
    checkpoint_every: int
    device: torch.device


@dataclass
class FitLog:
    """What is kept of a fit: mean losses per window of steps, and the seconds spent.

    Args:
        curve: One dict per window: "step", the last step of it (from 1), and the mean of each loss.
        wall_s: Seconds of all sessions of the fit, without those lost to a kill.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def final_loss(self) -> float:
        """Mean loss of the last window."""
        return self.curve[-1]["loss"]


def step_generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator whose numbers depend on the arguments alone.

    Args:
        seed: Seed of the run.
        purpose: What the numbers are for, such as ("dit", step).

    Returns:
        Generator seeded by the first 63 bits of a sha256 over the arguments.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate_factor(step: int, settings: FitSettings) -> float:
    """Share of the highest learning rate at a step.

    Args:
        step: Optimiser steps done.
        settings: Schedule, warm-up and number of steps.

    Returns:
        Number from 0 to 1.
    """
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def fit(
    model: nn.Module, step_loss: StepLoss, settings: FitSettings, checkpoint: Path, progress: Progress
) -> tuple[nn.Module, FitLog]:
    """Train a network, going on from a checkpoint where there is one.

    Args:
        model: The network with its starting weights, on `settings.device`; trained in place.
        step_loss: (network, step from 0) to named scalar losses; "loss" is what is minimised.
        settings: How.
        checkpoint: File of the training state.
        progress: Where bar and loss go.

    Returns:
        The averaged network in evaluation mode, and the log.

    Raises:
        UserError: The loss is not finite (the last checkpoint stays), or the checkpoint is damaged.
        Interrupted: After Ctrl-C, when the running step is finished and saved.
    """
    fitter = _Fitter(model, settings, checkpoint)
    with (
        progress.stage(
            f"train {settings.part}", total=settings.steps, unit="step", initial=fitter.step
        ) as bar,
        postponed_interrupt() as interrupted,
    ):
        noted_s = time.monotonic()
        while fitter.step < settings.steps:
            fitter.advance(step_loss)
            bar.advance()
            if time.monotonic() - noted_s >= _NOTE_PERIOD_S and fitter.log.curve:
                noted_s = time.monotonic()
                progress.note(_loss_line(fitter))
            if interrupted():
                fitter.save()
                raise Interrupted(
                    f"training stopped at step {fitter.step}; the same command goes on from there"
                )
            if fitter.step % settings.checkpoint_every == 0 or fitter.step == settings.steps:
                fitter.save()
    averaged: nn.Module = fitter.averaged.module
    return averaged.eval(), fitter.log


class _Fitter:
    """Network, optimiser, averaged weights and log at one step."""

    def __init__(self, model: nn.Module, settings: FitSettings, checkpoint: Path) -> None:
        self.model, self.settings, self.checkpoint = model.train(), settings, checkpoint
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, settings)
        )
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))  # type: ignore[no-untyped-call]
        self.log = FitLog()
        self.step = 0
        self._window: dict[str, float] = {}
        self._window_steps = 0
        state = load_checkpoint(checkpoint)
        if state is not None:
            self._restore(state)
        self._started_s = time.monotonic() - self.log.wall_s

    def advance(self, step_loss: StepLoss) -> None:
        """Do one optimiser step."""
        settings = self.settings
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            losses = step_loss(self.model, self.step)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"loss must stay finite, got {values['loss']} at step {self.step} of {settings.part}:"
                " lower the learning rate or clip the gradient"
            )
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        if settings.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_grad)
        self.optimizer.step()
        self.scheduler.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        self._record(values)

    def _record(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._window[name] = self._window.get(name, 0.0) + value
        self._window_steps += 1
        if (
            self._window_steps == max(1, self.settings.steps // _CURVE_POINTS)
            or self.step == self.settings.steps
        ):
            means = {name: total / self._window_steps for name, total in self._window.items()}
            self.log.curve.append({"step": self.step, **means})
            self._window, self._window_steps = {}, 0

    def save(self) -> None:
        """Write everything that `_restore` needs."""
        self.log.wall_s = time.monotonic() - self._started_s
        state: dict[str, Any] = {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "curve": self.log.curve,
            "wall_s": self.log.wall_s,
            "window": self._window,
            "window_steps": self._window_steps,
        }
        save_checkpoint(self.checkpoint, state)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.log = FitLog(state["curve"], state["wall_s"])
            self._window, self._window_steps = state["window"], state["window_steps"]
            self.step = state["step"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.checkpoint} must hold a training state of this network, got another one"
                f" ({str(error).splitlines()[0]}); remove it to start again"
            ) from None


def _loss_line(fitter: _Fitter) -> str:
    last = fitter.log.curve[-1]
    losses = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "step")
    rate = fitter.scheduler.get_last_lr()[0]
    return f"{fitter.settings.part} step {last['step']:.0f}/{fitter.settings.steps}: {losses}, lr {rate:.2g}"
