"""The training loop: learning rates, order, exact resumption, signals, and its checkpoints."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.fit import (
    EpochOrder,
    Fit,
    descend,
    load_checkpoint,
    rate_share,
    save_checkpoint,
    step_generator,
)

STEPS = 12


class SmallTraining:
    """A linear map with momentum, saved every fifth step; `before` is called with each step's number."""

    def __init__(self, checkpoint, before=lambda step: None, network=None):
        torch.manual_seed(1)
        self.network = network or nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), momentum=0.9, lr=1.0)
        parts = {"network": self.network, "optimizer": self.optimizer}
        self.fit, self.before = Fit(parts, STEPS, checkpoint), before
        self.first = self.fit.step

    def run(self):
        self.fit.run(self.step, lambda: self.fit.step % 5 == 0)
        return self.network.weight

    def step(self, step):
        self.before(step)
        x = torch.randn(8, 4, generator=step_generator(0, step))
        loss = (self.network(x) - x.sum(1, keepdim=True)).square().mean()
        descend(self.optimizer, loss, 0.01 * rate_share("cosine", step, STEPS, warmup=3), clip_grad=1.0)


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
def test_learning_rate_after_a_warm_up(schedule, step, factor):
    assert rate_share(schedule, step, 110, warmup=10) == pytest.approx(factor, abs=1e-12)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="no learning rate schedule is called 'cosines'"):
        rate_share("cosines", 0, 10)


@pytest.mark.parametrize("straddling", [True, False])
def test_an_epoch_holds_every_item_once_and_steps_can_be_asked_in_any_order(straddling):
    order = EpochOrder(10, 4, 3, "dit", straddling=straddling)
    steps = [order.indices(step).tolist() for step in range(5 if straddling else 6)]
    assert [len(step) for step in steps] == ([4] * 5 if straddling else [4, 4, 2] * 2)
    items = [item for step in steps for item in step]
    assert sorted(items[:10]) == sorted(items[10:]) == list(range(10))
    assert items[:10] != items[10:]
    again = EpochOrder(10, 4, 3, "dit", straddling=straddling)
    assert [again.indices(step).tolist() for step in (4, 2, 0)] == [steps[4], steps[2], steps[0]]
    assert EpochOrder(10, 4, 3, "vae").indices(0).tolist() != steps[0]


def test_a_step_of_more_items_than_there_are_takes_several_epochs():
    items = EpochOrder(3, 8, 0, straddling=True).indices(1).tolist()
    assert len(items) == 8
    assert sorted(items[1:4]) == sorted(items[4:7]) == [0, 1, 2]  # positions 8 to 15


def test_steps_change_the_weights_and_clip_the_gradient():
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    descend(optimizer, network(torch.tensor([3.0, 4.0])).sum(), 0.1)
    assert torch.allclose(network.weight, torch.tensor([[0.7, 1.6]]))
    descend(optimizer, network(torch.tensor([3.0, 4.0])).sum(), 0.1, clip_grad=1.0)  # gradient of norm 5
    assert torch.allclose(network.weight, torch.tensor([[0.64, 1.52]]), atol=1e-5)


@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, 11])
def test_killed_and_resumed_is_bitwise_the_uninterrupted_run(tmp_path, killed_at):
    whole = SmallTraining(tmp_path / "whole.pt").run()

    def kill(step):
        if step == killed_at:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        SmallTraining(tmp_path / "c.pt", kill).run()
    resumed = SmallTraining(tmp_path / "c.pt")
    assert resumed.first == killed_at // 5 * 5
    assert torch.equal(resumed.run(), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_finishes_the_step_and_keeps_it(tmp_path, number):
    whole = SmallTraining(tmp_path / "whole.pt").run()

    def interrupt(step):
        if step == 6:
            os.kill(os.getpid(), number)

    def handler(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        with pytest.raises(Interrupted, match="stopped at step 7"):
            SmallTraining(tmp_path / "c.pt", interrupt).run()
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    resumed = SmallTraining(tmp_path / "c.pt")
    assert resumed.first == 7
    assert torch.equal(resumed.run(), whole)


def test_seconds_of_earlier_sessions_count_and_a_finished_training_takes_none(tmp_path):
    first = SmallTraining(tmp_path / "c.pt")
    first.run()
    first.fit.save()
    spent = (first.fit.wall_s, first.fit.cpu_s)
    assert min(spent) > 0
    again = SmallTraining(tmp_path / "c.pt")
    again.run()
    assert (again.fit.wall_s, again.fit.cpu_s) == spent


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
    with pytest.raises(UserError, match=r"c\.pt is damaged or no training checkpoint; remove it"):
        load_checkpoint(path)


def test_checkpoint_of_another_version_is_named(tmp_path):
    path = tmp_path / "c.pt"
    torch.save({"step": 1, "model": {}, "window": {}}, path)  # as versions before fit/ wrote it
    with pytest.raises(UserError, match=r"c\.pt was written by another version of mgd3-fast; .* remove"):
        load_checkpoint(path)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    SmallTraining(tmp_path / "c.pt").run()
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    with pytest.raises(UserError, match=r"c\.pt holds the state of another training \(Error.* remove it"):
        SmallTraining(tmp_path / "c.pt", network=other)
    save_checkpoint(tmp_path / "c.pt", {"step": 3})
    with pytest.raises(UserError, match=r"another training \(no 'network'\)"):
        SmallTraining(tmp_path / "c.pt")
