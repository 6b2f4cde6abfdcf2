"""How both networks are trained: AdamW, weights averaged each step, a curve of losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mgd3_fast.config.train import TrainConfig
from mgd3_fast.errors import UserError
from mgd3_fast.fit import Fit, Stateful, descend, rate_share
from mgd3_fast.progress import Progress

StepLoss = Callable[[nn.Module, int], dict[str, Tensor]]

_CURVE_POINTS = 200
_NOTE_PERIOD_S = 30.0


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How one network is trained.

    Args:
        part: "vae" or "dit"; names the bar.
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


@dataclass(frozen=True)
class FitLog:
    """What is kept of a training.

    Args:
        curve: One dict per window of steps: "step", the last step of it (from 1), and the mean of each loss.
        wall_s: Seconds of all sessions, without those lost to a kill.
    """

    curve: list[dict[str, float]]
    wall_s: float

    @property
    def final_loss(self) -> float:
        """Mean loss of the last window."""
        return self.curve[-1]["loss"]


def fit_settings(
    config: TrainConfig, part: str, *, count: int, device: torch.device, bf16: bool
) -> FitSettings:
    """Settings of one part of a training.

    Args:
        config: What was asked for.
        part: "vae" or "dit".
        count: Images of an epoch.
        device: Where the network is trained.
        bf16: Use bfloat16 autocast.
    """
    vae = part == "vae"
    batch_size = config.vae_batch_size if vae else config.batch_size
    of_epochs = None if config.epochs is None else max(1, round(config.epochs * count / batch_size))
    return FitSettings(
        part=part,
        steps=(config.vae_steps if vae else None) or of_epochs or config.steps or 1,
        lr=config.vae_lr if vae else config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        ema=config.vae_ema if vae else config.ema,
        clip_grad=config.clip_grad,
        bf16=bf16,
        checkpoint_every=config.checkpoint_every,
        device=device,
    )


def fit_network(
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
    trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))  # type: ignore[no-untyped-call]
    curve = _LossCurve(settings.steps)
    parts: dict[str, Stateful] = {
        "network": model,
        "averaged": averaged,
        "optimizer": optimizer,
        "curve": curve,
    }
    fit = Fit(parts, settings.steps, checkpoint)
    noted_s = time.monotonic()

    def lr(step: int) -> float:
        return settings.lr * rate_share(settings.schedule, step, settings.steps, warmup=settings.warmup)

    def do_step(step: int) -> None:
        nonlocal noted_s
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            losses = step_loss(model, step)
        values = _finite(losses, f"step {step} of {settings.part}")
        descend(optimizer, losses["loss"], lr(step), clip_grad=settings.clip_grad)
        averaged.update_parameters(model)
        curve.add(step, values)
        bar.advance()
        if curve.points and time.monotonic() - noted_s >= _NOTE_PERIOD_S:
            noted_s = time.monotonic()
            progress.note(f"{settings.part} {curve.last()}, lr {lr(step + 1):.2g}")

    with progress.stage(f"train {settings.part}", total=settings.steps, unit="step", initial=fit.step) as bar:
        fit.run(do_step, lambda: fit.step % settings.checkpoint_every == 0 or fit.step == fit.steps)
    kept: nn.Module = averaged.module
    return kept.eval(), FitLog(curve.points, fit.wall_s)


def _finite(losses: dict[str, Tensor], where: str) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(values["loss"]):
        raise UserError(
            f"loss must stay finite, got {values['loss']} at {where}:"
            " lower the learning rate or clip the gradient"
        )
    return values


class _LossCurve:
    """Mean losses per window of steps; a window that a checkpoint falls into is part of it."""

    def __init__(self, steps: int) -> None:
        self._steps, self._window_steps = steps, max(1, steps // _CURVE_POINTS)
        self.points: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._summed = 0

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._summed += 1
        if self._summed == self._window_steps or step + 1 == self._steps:
            means = {name: total / self._summed for name, total in self._sums.items()}
            self.points.append({"step": step + 1, **means})
            self._sums, self._summed = {}, 0

    def last(self) -> str:
        point = self.points[-1]
        losses = ", ".join(f"{name} {value:.4g}" for name, value in point.items() if name != "step")
        return f"step {point['step']:.0f}/{self._steps}: {losses}"

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points, "sums": self._sums, "summed": self._summed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points, self._sums, self._summed = state["points"], state["sums"], state["summed"]
