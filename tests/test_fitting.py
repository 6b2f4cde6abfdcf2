"""The training loop: learning rate, average of the weights, exact resumption, and its checkpoints."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.progress import SILENT
from mgd3_fast.train.checkpoint import load_checkpoint, save_checkpoint
from mgd3_fast.train.fitting import FitSettings, fit, learning_rate_factor, step_generator

SETTINGS = FitSettings(
    part="dit",
    steps=12,
    lr=1e-2,
    weight_decay=0.01,
    schedule="cosine",
    warmup=3,
    ema=0.9,
    clip_grad=1.0,
    bf16=False,
    checkpoint_every=5,
    device=torch.device("cpu"),
)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("constant", 0, 0.1),
        ("constant", 9, 1.0),
        ("constant", 500, 1.0),
        ("cosine", 4, 0.5),
        ("cosine", 10, 1.0),
        ("cosine", 60, 0.5),
        ("cosine", 110, 0.0),
    ],
)
def test_learning_rate(schedule, step, factor):
    settings = replace(SETTINGS, schedule=schedule, warmup=10, steps=110)
    assert learning_rate_factor(step, settings) == pytest.approx(factor, abs=1e-12)


def regression_loss(model: nn.Module, step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 4, generator=step_generator(0, step))
    return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}


def small_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 1)


def test_fit_learns_and_averages_the_weights(tmp_path):
    settings = replace(SETTINGS, steps=300, lr=0.05, weight_decay=0.0, checkpoint_every=1000)
    averaged, log = fit(small_model(), regression_loss, settings, tmp_path / "c.pt", SILENT)
    assert torch.allclose(averaged.weight, torch.ones(1, 4), atol=0.02)
    assert log.final_loss < 1e-2 < log.curve[0]["loss"]
    assert log.curve[-1]["step"] == 300


def test_average_is_the_exponential_one(tmp_path):
    weights = []

    def recorded(model, step):
        weights.append(model.weight.detach().clone())
        return regression_loss(model, step)

    model = small_model()
    averaged, _ = fit(model, recorded, SETTINGS, tmp_path / "c.pt", SILENT)
    weights.append(model.weight.detach())
    expected = weights[1].clone()
    for weight in weights[2:]:
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(averaged.weight, expected, atol=1e-6)


@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, 11])
def test_killed_and_resumed_is_bitwise_the_uninterrupted_run(tmp_path, killed_at):
    whole, whole_log = fit(small_model(), regression_loss, SETTINGS, tmp_path / "whole.pt", SILENT)

    def killing(model, step):
        if step == killed_at:
            raise RuntimeError("killed")
        return regression_loss(model, step)

    with pytest.raises(RuntimeError, match="killed"):
        fit(small_model(), killing, SETTINGS, tmp_path / "c.pt", SILENT)
    resumed, log = fit(small_model(), regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)
    assert log.curve == whole_log.curve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_finishes_the_step_and_keeps_it(tmp_path, number):
    whole, _ = fit(small_model(), regression_loss, SETTINGS, tmp_path / "whole.pt", SILENT)

    def interrupted(model, step):
        if step == 6:
            os.kill(os.getpid(), number)
        return regression_loss(model, step)

    def handler(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        with pytest.raises(Interrupted, match="stopped at step 7"):
            fit(small_model(), interrupted, SETTINGS, tmp_path / "c.pt", SILENT)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 7
    resumed, _ = fit(small_model(), regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_names_the_step_and_leaves_the_checkpoint(tmp_path, value):
    def failing(model, step):
        losses = regression_loss(model, step)
        return {"loss": losses["loss"] * (value if step == 8 else 1.0)}

    with pytest.raises(UserError, match=f"loss must stay finite, got {value} at step 8 of dit"):
        fit(small_model(), failing, SETTINGS, tmp_path / "c.pt", SILENT)
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 5


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})

    def failing(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "foreign", "truncated"])
def test_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-900] if content is None else content)
    with pytest.raises(UserError, match=r"c\.pt must be a training checkpoint"):
        load_checkpoint(path)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    fit(small_model(), regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    with pytest.raises(UserError, match="training state of this network"):
        fit(other, regression_loss, SETTINGS, tmp_path / "c.pt", SILENT)
