"""How `train` fits a network: AdamW, average of the weights, curve of losses, settings of both parts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mgd3_fast.config.train import TrainConfig
from mgd3_fast.errors import UserError
from mgd3_fast.fit import load_checkpoint, step_generator
from mgd3_fast.progress import SILENT
from mgd3_fast.train.fitting import fit_network
from mgd3_fast.train.log import TrainingLog
from mgd3_fast.train.preset import steps_of
from mgd3_fast.train.run import TrainingRun

CONFIG = TrainConfig(
    dataset="d",
    out="o",
    steps=12,
    lr=1e-2,
    weight_decay=0.01,
    schedule="cosine",
    warmup=3,
    ema=0.9,
    vae_ema=0.9,
    clip_grad=1.0,
    checkpoint_every=5,
)


def fitted(model: nn.Module, step_loss: Any, out: Path, part: str = "dit", **changes: Any) -> Any:
    """Fit a model by a training run without images; returns the averaged one and the log."""
    config, log = replace(CONFIG, out=out, **changes), TrainingLog(out / "unused")
    log.begin(part, {})
    nothing: Any = None
    run = TrainingRun(config, nothing, None, nothing, 16, torch.device("cpu"), False, log, SILENT)
    return fit_network(run, part, model, step_loss, count=100)


def regression_loss(model: nn.Module, step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 4, generator=step_generator(0, step))
    return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}


def small_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 1)


def test_it_learns_and_averages_the_weights(tmp_path):
    settings = {"steps": 300, "lr": 0.05, "weight_decay": 0.0, "checkpoint_every": 1000}
    averaged, log = fitted(small_model(), regression_loss, tmp_path, **settings)
    assert torch.allclose(averaged.weight, torch.ones(1, 4), atol=0.02)
    assert log.curve[-1]["loss"] < 1e-2 < log.curve[0]["loss"]
    assert log.curve[-1]["step"] == 300


def test_average_is_the_exponential_one(tmp_path):
    weights = []

    def recorded(model, step):
        weights.append(model.weight.detach().clone())
        return regression_loss(model, step)

    model = small_model()
    averaged, _ = fitted(model, recorded, tmp_path)
    weights[-1] = model.weight.detach()  # there was the average, looked at in the end
    expected = weights[1].clone()
    for weight in weights[2:]:
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(averaged.weight, expected, atol=1e-6)


@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, 11, 307])
def test_killed_and_resumed_is_bitwise_the_uninterrupted_run(tmp_path, killed_at):
    # A curve of 200 points over 400 steps: checkpoints at odd steps lie inside a window.
    steps = 400 if killed_at > 12 else 12
    whole, whole_log = fitted(small_model(), regression_loss, tmp_path / "whole", steps=steps)

    def killing(model, step):
        if step == killed_at:
            raise RuntimeError("killed")
        return regression_loss(model, step)

    with pytest.raises(RuntimeError, match="killed"):
        fitted(small_model(), killing, tmp_path / "killed", steps=steps)
    resumed, log = fitted(small_model(), regression_loss, tmp_path / "killed", steps=steps)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)
    assert log.curve == whole_log.curve


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_names_the_step_and_leaves_the_checkpoint(tmp_path, value):
    def failing(model, step):
        losses = regression_loss(model, step)
        return {"loss": losses["loss"] * (value if step == 8 else 1.0)}

    with pytest.raises(UserError, match=f"the loss became {value} at step 8 of dit"):
        fitted(small_model(), failing, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoints/dit.pt")["step"] == 5


@pytest.mark.parametrize(
    ("part", "given", "steps"),
    [
        ("dit", {"steps": 9}, 9),
        ("dit", {"epochs": 2.5}, 25),
        ("dit", {"epochs": 0.01}, 1),
        ("vae", {"steps": 9}, 9),
        ("vae", {"epochs": 2.5}, 50),
        ("vae", {"epochs": 2.5, "vae_steps": 7}, 7),
    ],
)
def test_steps_of_each_part(part, given, steps):
    config = TrainConfig(dataset="d", out="o", batch_size=10, vae_batch_size=5, **given)
    assert steps_of(config, part, 100) == steps


@pytest.mark.parametrize(("part", "lr"), [("dit", 0.2), ("vae", 0.3)])
def test_learning_rate_of_each_part(part, lr, tmp_path):
    """Adam's first step is as long as the learning rate."""
    model = small_model()
    before = model.weight.detach().clone()
    rates = {"lr": 0.2, "vae_lr": 0.3, "weight_decay": 0.0, "schedule": "constant", "warmup": 0}
    fitted(model, regression_loss, tmp_path, part, steps=1, **rates)
    assert torch.allclose((model.weight - before).abs(), torch.full((1, 4), lr), atol=1e-4)
