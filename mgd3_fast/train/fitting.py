"""How both networks are trained: AdamW, weights averaged each step, a curve of losses."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mgd3_fast.errors import UserError
from mgd3_fast.fit import Fit, Stateful, descend, rate_share
from mgd3_fast.progress import duration
from mgd3_fast.train.held_out import HeldOutLoss, StepLoss, best_before_rise
from mgd3_fast.train.log import CHECKPOINTS, FitLog
from mgd3_fast.train.preset import steps_of
from mgd3_fast.train.run import TrainingRun

if TYPE_CHECKING:
    from mgd3_fast.train.sheets import SampleSheets

_CURVE_POINTS = 200
_NOTE_PERIOD_S = 30.0
_MOST_UNSAVED_S = 600.0


def fit_network(
    run: TrainingRun,
    part: str,
    model: nn.Module,
    step_loss: StepLoss,
    *,
    count: int,
    held_out: HeldOutLoss | None = None,
    sheets: SampleSheets | None = None,
) -> tuple[nn.Module, FitLog]:
    """Train a network, going on from its checkpoint in `out` where there is one.

    Args:
        run: Settings, device and where bar and losses go.
        part: "vae" or "dit".
        model: The network with its starting weights, on `run.device`; trained in place.
        step_loss: (network, step from 0) to named scalar losses; "loss" is what is minimised.
        count: Images of an epoch.
        held_out: The loss of other images, which changes nothing of the training.
        sheets: Draws what the averaged network makes, likewise.

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
    parts: dict[str, Stateful] = {"network": model, "averaged": averaged}
    parts |= {"optimizer": optimizer, "curve": curve}
    fit = Fit(parts, steps, run.out / CHECKPOINTS / f"{part}.pt")
    run.log.plan(part, steps)
    _note_changed_length(run, part, fit)
    notes = _Notes(run, part, fit, curve)
    looks = _Looks(run, part, fit.steps, curve, held_out, sheets)

    def lr(step: int) -> float:
        return highest_lr * rate_share(config.schedule, step, steps, warmup=config.warmup)

    def do_step(step: int) -> None:
        losses, values = _finite_losses(run, part, step_loss, model, step)
        descend(optimizer, losses["loss"], lr(step), clip_grad=config.clip_grad)
        averaged.update_parameters(model)
        curve.add(step, values)
        run.log.keep(part)
        bar.advance()
        looks.after(step + 1, model, averaged.module)
        notes.after(step, lr(step + 1))

    def is_due() -> bool:
        return (
            fit.step % config.checkpoint_every == 0 or fit.step == steps or fit.unsaved_s >= _MOST_UNSAVED_S
        )

    total = max(steps, fit.step)
    with run.progress.stage(f"train {part}", total=total, unit="step", initial=fit.step) as bar:
        fit.run(do_step, is_due)
    if curve.held_out:
        run.progress.note(f"{part} {curve.last()}")
    kept: nn.Module = averaged.module.eval()
    if run.log.finished(part) is None:
        with torch.no_grad():
            _finite_losses(run, part, step_loss, kept, fit.step)  # the last step, too, may have been too far
    return kept, FitLog(curve.closed(fit.step), fit.wall_s, curve.held_out)


def _finite_losses(
    run: TrainingRun, part: str, step_loss: StepLoss, network: nn.Module, step: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The losses of a step, and their values; an error where the step went too far."""
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
        losses = step_loss(network, step)
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(values["loss"]):
        run.log.diverged(part, step)
        lr = "--vae-lr" if part == "vae" else "--lr"
        raise UserError(
            f"the loss became {values['loss']} at step {step} of {part}: start {part} again with a lower {lr}"
            " or with --clip-grad"
        )
    return losses, values


def _note_changed_length(run: TrainingRun, part: str, fit: Fit) -> None:
    """Say what becomes of a training that other steps were planned for."""
    if fit.step > fit.steps:
        run.progress.note(
            f"{part}: {fit.step:,} steps are done, more than the {fit.steps:,} asked for: they are kept"
        )
    elif fit.step and run.log.has_other_length(part) and run.config.schedule == "cosine":
        run.progress.note(
            f"{part}: from step {fit.step:,} on, the learning rate is that of a run of {fit.steps:,} steps"
        )


class _Looks:
    """What is looked at beside the training: the loss of held-out images, and sheets of samples."""

    def __init__(
        self,
        run: TrainingRun,
        part: str,
        steps: int,
        curve: _LossCurve,
        held_out: HeldOutLoss | None,
        sheets: SampleSheets | None,
    ) -> None:
        self._run, self._part, self._steps, self._curve = run, part, steps, curve
        self._held_out, self._sheets = held_out, sheets
        batch_size = run.config.vae_batch_size if part == "vae" else run.config.batch_size
        self._period = held_out.period(steps, batch_size) if held_out else steps
        self._warned = False

    def after(self, done: int, model: nn.Module, averaged: Any) -> None:
        """Look, if it is time to after `done` steps."""
        if self._held_out is not None and (done % self._period == 0 or done == self._steps):
            with torch.autocast(self._run.device.type, torch.bfloat16, enabled=self._run.bf16):
                loss = self._held_out(model)
            self._curve.held_out.append({"step": done, "loss": loss})
            self._warn_of_rise()
        if self._sheets is not None and done in self._sheets.due:
            self._sheets.draw(averaged, done)

    def _warn_of_rise(self) -> None:
        best = best_before_rise(self._curve.held_out)
        if best is not None and not self._warned:
            self._warned = True
            last = self._curve.held_out[-1]
            self._run.progress.note(
                f"{self._part}: held-out loss has risen since step {best['step']:,}, {best['loss']:.4g} ->"
                f" {last['loss']:.4g}: the images are being learned by heart; so many steps are enough, and"
                " more images or --augment would help"
            )


class _Notes:
    """Now and then a line: losses, learning rate, and the time left, that of the other part included."""

    def __init__(self, run: TrainingRun, part: str, fit: Fit, curve: _LossCurve) -> None:
        self._run, self._part, self._curve = run, part, curve
        self._begun, self._steps = fit.step, fit.steps
        self._started_s = self._noted_s = time.monotonic()

    def after(self, step: int, lr: float) -> None:
        """Say it, unless it was said just before."""
        now_s = time.monotonic()
        if not self._curve.points or now_s - self._noted_s < _NOTE_PERIOD_S:
            return
        self._noted_s = now_s
        later_s = self._run.later_s if self._part == "vae" else 0.0
        step_s = (now_s - self._started_s) / (step + 1 - self._begun)
        left = duration((self._steps - step - 1) * step_s + later_s)
        whose = " of both parts" if later_s else ""
        self._run.progress.note(f"{self._part} {self._curve.last()}, lr {lr:.2g}, {left} left{whose}")


class _LossCurve:
    """Mean losses per window of steps; a window that a checkpoint falls into is part of it."""

    def __init__(self, steps: int) -> None:
        self._steps, self._window_steps = steps, max(1, steps // _CURVE_POINTS)
        self.points: list[dict[str, float]] = []
        self.held_out: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._summed = 0

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._summed += 1
        if self._summed >= self._window_steps:
            self.points = self.closed(step + 1)
            self._sums, self._summed = {}, 0

    def closed(self, step: int) -> list[dict[str, float]]:
        """All windows, the one that is not full included; it ends at `step`."""
        means = {name: total / self._summed for name, total in self._sums.items()}
        return [*self.points, {"step": step, **means}] if means else self.points

    def last(self) -> str:
        point = self.points[-1]
        losses = ", ".join(f"{name} {value:.4g}" for name, value in point.items() if name != "step")
        held_out = f", held out {self.held_out[-1]['loss']:.4g}" if self.held_out else ""
        return f"step {point['step']:.0f}/{self._steps}: {losses}{held_out}"

    def state_dict(self) -> dict[str, Any]:
        windows = {"points": self.points, "sums": self._sums, "summed": self._summed}
        return {**windows, "held_out": self.held_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points, self._sums, self._summed = state["points"], state["sums"], state["summed"]
        self.held_out = state.get("held_out", [])  # earlier versions measured none
