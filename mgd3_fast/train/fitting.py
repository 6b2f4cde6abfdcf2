"""How both networks are trained: AdamW, weights averaged each step, a curve of losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mgd3_fast.config.train import TrainConfig
from mgd3_fast.errors import UserError
from mgd3_fast.fit import Fit, Stateful, descend, rate_share
from mgd3_fast.train.log import CHECKPOINTS, FitLog
from mgd3_fast.train.run import TrainingRun

StepLoss = Callable[[nn.Module, int], dict[str, Tensor]]

_CURVE_POINTS = 200
_NOTE_PERIOD_S = 30.0
_MOST_UNSAVED_S = 600.0


def steps_of(config: TrainConfig, part: str, count: int) -> int:
    """Optimiser steps of the training of "vae" or "dit" on `count` images."""
    vae = part == "vae"
    batch_size = config.vae_batch_size if vae else config.batch_size
    of_epochs = None if config.epochs is None else max(1, round(config.epochs * count / batch_size))
    return (config.vae_steps if vae else None) or of_epochs or config.steps or 1


def fit_network(
    run: TrainingRun, part: str, model: nn.Module, step_loss: StepLoss, *, count: int
) -> tuple[nn.Module, FitLog]:
    """Train a network, going on from its checkpoint in `out` where there is one.

    Args:
        run: Settings, device and where bar and losses go.
        part: "vae" or "dit".
        model: The network with its starting weights, on `run.device`; trained in place.
        step_loss: (network, step from 0) to named scalar losses; "loss" is what is minimised.
        count: Images of an epoch.

    Returns:
        The averaged network in evaluation mode, and the log.

    Raises:
        UserError: The loss is not finite (the last checkpoint stays), or the checkpoint is damaged.
        Interrupted: After Ctrl-C, when the running step is finished and saved.
    """
    config, vae, steps = run.config, part == "vae", steps_of(run.config, part, count)
    highest_lr, decay = (config.vae_lr, config.vae_ema) if vae else (config.lr, config.ema)
    trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=highest_lr, weight_decay=config.weight_decay)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    curve = _LossCurve(steps)
    parts: dict[str, Stateful] = {
        "network": model,
        "averaged": averaged,
        "optimizer": optimizer,
        "curve": curve,
    }
    fit = Fit(parts, steps, run.out / CHECKPOINTS / f"{part}.pt")
    noted_s = time.monotonic()

    def lr(step: int) -> float:
        return highest_lr * rate_share(config.schedule, step, steps, warmup=config.warmup)

    def do_step(step: int) -> None:
        nonlocal noted_s
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
            losses = step_loss(model, step)
        values = _finite(losses, f"step {step} of {part}")
        descend(optimizer, losses["loss"], lr(step), clip_grad=config.clip_grad)
        averaged.update_parameters(model)
        curve.add(step, values)
        bar.advance()
        if curve.points and time.monotonic() - noted_s >= _NOTE_PERIOD_S:
            noted_s = time.monotonic()
            run.progress.note(f"{part} {curve.last()}, lr {lr(step + 1):.2g}")

    def is_due() -> bool:
        return (
            fit.step % config.checkpoint_every == 0 or fit.step == steps or fit.unsaved_s >= _MOST_UNSAVED_S
        )

    with run.progress.stage(f"train {part}", total=steps, unit="step", initial=fit.step) as bar:
        fit.run(do_step, is_due)
    kept: nn.Module = averaged.module
    return kept.eval(), FitLog(curve.points, fit.wall_s)


def _finite(losses: dict[str, Tensor], where: str) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(values["loss"]):
        raise UserError(
            f"the loss became {values['loss']} at {where}: lower the learning rate or clip the gradient"
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
