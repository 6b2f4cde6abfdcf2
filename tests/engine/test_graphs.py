"""Captured phases: replays equal eager bit for bit, on new seeds, modes, labels and batch shapes.

On the CPU a recording stand-in takes the place of CUDA graphs; the last test is the same on a GPU.
"""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, StepState, image_seeds
from mgd3_engine.dit import DiT, DiTConfig
from tests.fakes.recording import record_phases

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, SHAPE = 10, (4, 8, 8)


def small_dit(input_size: int = 8) -> nn.Module:
    config = DiTConfig(
        input_size=input_size, patch_size=2, hidden_size=48, depth=2, num_heads=3, num_classes=CLASSES
    )
    generator = torch.Generator().manual_seed(3)
    network = DiT(config)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network.requires_grad_(False).eval()


class ConvNet(nn.Module):
    """A denoiser of one part, for latents of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.classes = nn.Conv2d(4, 8, 3, padding=1), nn.Embedding(CLASSES + 1, 4)
        self.requires_grad_(False)

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        shift = self.classes(class_ids) * torch.cos(timestep[:, None] * 0.01)
        return torch.tanh(self.mix(x + shift[:, :, None, None].to(x.dtype)))


def make_sampler(network: nn.Module, **options) -> GuidedSampler:
    defaults = {"schedule": NoiseSchedule.linear(), "steps": 6, "null_class": CLASSES, "batch_size": 8}
    return GuidedSampler(network, **defaults | {"guidance": ModeGuidance(t_stop=3)} | options)


def make_images(count: int, start: int = 0, shape=SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    modes = torch.randn(count, *shape, generator=torch.Generator().manual_seed(start))
    class_ids = (torch.arange(count) * 7 + start) % CLASSES
    return class_ids, modes, image_seeds(start, [("a", start + k) for k in range(count)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "ddim"},
        {"method": "ddim", "eta": 1.0},
        {"method": "dpmpp"},
        {"method": "dpmpp-sde", "cfg_interval": (300, 900)},
        {"cfg_interval": (300, 900), "guidance": ModeGuidance(t_stop=0)},
        {"cfg_scale": 1.0},
        {"guidance": None},
        {"guidance": ModeGuidance(t_stop=0)},
        {"dtype": torch.bfloat16},
    ],
    ids=lambda options: ",".join(options) or "ddpm",
)
@pytest.mark.parametrize("make_network", [small_dit, ConvNet])
def test_replays_equal_eager(make_network, options):
    network = make_network().to(options.get("dtype", torch.float32))
    eager = make_sampler(network, **options)
    sampler = make_sampler(network, **options)
    recorder = record_phases(sampler)
    for start in (0, 20, 50):
        images = make_images(19, start)
        assert torch.equal(sampler.sample(*images), eager.sample(*images))
    phases = len(sampler._phases)
    # Nine batches: the first runs and is captured, or, where classes outgrow the table, the second too.
    assert recorder.warm_ups == len(recorder.phases) in (phases, 2 * phases)
    assert sum(phase.replays for phase in recorder.phases) == 9 * phases - recorder.warm_ups


def test_a_value_from_python_is_baked_in():
    """The stand-in can fail: like a graph, it does not see what a network takes from Python."""

    class Gained(ConvNet):
        gain = 1.0

        def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
            return super().forward(x, timestep, class_ids) * self.gain

    network, images = Gained(), make_images(8)
    sampler, eager = make_sampler(network), make_sampler(network)
    record_phases(sampler)
    assert torch.equal(sampler.sample(*images), eager.sample(*images))
    network.gain = 0.5
    assert not torch.equal(sampler.sample(*images), eager.sample(*images))


def test_more_classes_than_the_table_holds_are_captured_again():
    network = small_dit()
    sampler, eager = make_sampler(network), make_sampler(network)
    recorder = record_phases(sampler)
    class_ids, modes, seeds = make_images(8)
    for distinct, captures in ((1, 1), (1, 1), (5, 2), (3, 2), (10, 3), (5, 3)):
        images = class_ids % distinct, modes, seeds
        assert torch.equal(sampler.sample(*images), eager.sample(*images))
        assert len(recorder.phases) == 2 * captures


def test_the_smallest_shape_that_holds_a_batch_is_used():
    network = ConvNet()
    sampler = make_sampler(network, batch_size=(8, 32, 16))
    recorder = record_phases(sampler)
    assert sampler.batch_shapes == (32, 16, 8)
    assert sampler.batch_shape == 32
    sampler.warm_up(SHAPE)
    assert [len(workspace.buffers.x) for workspace in sampler._workspaces._kept.values()] == [32, 16, 8]
    assert recorder.warm_ups == len(recorder.phases) == 6
    for count, shapes in ((70, [32, 32, 8]), (33, [32, 8]), (16, [16]), (9, [16]), (3, [8])):
        before = [phase.replays for phase in recorder.phases]
        latents = sampler.sample(*make_images(count))
        replays = [phase.replays - old for phase, old in zip(recorder.phases, before, strict=True)]
        assert replays == [n for rows in (32, 16, 8) for n in [shapes.count(rows)] * 2]
        alone = make_sampler(network, batch_size=32).sample(*make_images(count))
        torch.testing.assert_close(latents, alone, rtol=1e-5, atol=1e-5)


def test_graphs_are_bounded_and_the_oldest_go_first():
    sampler, eager = make_sampler(ConvNet()), make_sampler(ConvNet())
    eager._denoiser.load_state_dict(sampler._denoiser.state_dict())
    recorder = record_phases(sampler)
    for side in (4, 6, 8, 10, 12, 4):
        images = make_images(8, shape=(4, side, side))
        for _ in range(2):
            assert torch.equal(sampler.sample(*images), eager.sample(*images))
    assert len(sampler._workspaces._kept) == 4
    assert len(recorder.phases) == 2 * 6


def test_noise_and_callback_run_step_by_step():
    sampler = make_sampler(ConvNet())
    recorder = record_phases(sampler)
    seen = []
    images = make_images(3)
    latents = sampler.sample(*images, callback=lambda step, index, x: seen.append(step))
    assert seen == [5, 4, 3, 2, 1, 0]
    assert not recorder.phases
    assert torch.equal(sampler.sample(*images), latents)
    assert len(recorder.phases) == 2


class Waiting(ConvNet):
    """Reads a value back at every call, which no graph can hold."""

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        return super().forward(x, timestep, class_ids) * (1.0 if float(x[0, 0, 0, 0]) < 1e9 else 0.0)


def test_auto_goes_on_without_graphs_and_says_why(caplog):
    images = make_images(11)
    sampler = make_sampler(Waiting())
    eager = make_sampler(copy.deepcopy(sampler._denoiser))
    recorder = record_phases(sampler)
    with caplog.at_level(logging.WARNING, logger="mgd3_engine.sampling.sampler"):
        assert torch.equal(sampler.sample(*images), eager.sample(*images))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("graphs auto is off from now on: operation not permitted")
    assert not recorder.phases
    assert sampler._recorder is None


def test_on_raises_instead():
    sampler = make_sampler(Waiting())
    sampler._graphs = "on"
    record_phases(sampler)
    with pytest.raises(
        ValueError, match="graphs must be auto or off for this network, got on: operation not"
    ):
        sampler.sample(*make_images(3))
    with pytest.raises(ValueError, match="graphs must be auto or off where noise or callback is given"):
        sampler.sample(*make_images(3), callback=lambda *step: None)


class Nothing:
    needs_grad = needs_group = False

    def __call__(self, state: StepState) -> Tensor:
        return torch.zeros_like(state.x_t)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graphs": "on"}, "graphs must be auto or off where the device is cpu, got on"),
        ({"graphs": "maybe"}, "graphs must be one of auto, on, off, got 'maybe'"),
        ({"batch_size": ()}, "batch_size must be at least one number, got none"),
        ({"batch_size": (8, 0)}, "batch_size must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(ConvNet(), **options)


def test_auto_says_why_there_are_no_graphs(caplog):
    with caplog.at_level(logging.INFO, logger="mgd3_engine.sampling.sampler"):
        make_sampler(ConvNet(), backend="eager")
    assert caplog.messages == ["graphs auto is off: the device is cpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("make_network", [small_dit, ConvNet])
def test_cuda_graphs_equal_steps(make_network, backend, dtype):
    network = make_network().to("cuda", dtype)
    options = {"dtype": dtype, "backend": backend}
    stepwise = make_sampler(network, graphs="off", **options)
    graphed = make_sampler(network, graphs="on", **options)
    for start in (0, 20, 50):
        images = make_images(19, start)
        assert torch.equal(graphed.sample(*images), stepwise.sample(*images))
    with pytest.raises(ValueError, match="where guidance terms run at every step, got on"):
        make_sampler(network, graphs="on", terms=(Nothing(),))
