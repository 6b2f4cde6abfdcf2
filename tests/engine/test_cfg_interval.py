"""Classifier-free guidance in an interval of timesteps: what the network is asked for, and what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, StepState, image_seeds
from mgd3_engine.dit import DiT, DiTConfig

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, SHAPE, STEPS = 10, (4, 8, 8), 6
TIMESTEPS = [999, 799, 599, 400, 200, 0]


def network() -> DiT:
    config = DiTConfig(input_size=8, patch_size=2, hidden_size=48, depth=2, num_heads=3, num_classes=CLASSES)
    generator = torch.Generator().manual_seed(3)
    dit = DiT(config)
    for parameter in dit.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return dit.requires_grad_(False).eval()


def make_sampler(denoiser, **options) -> GuidedSampler:
    defaults = {"schedule": NoiseSchedule.linear(), "steps": STEPS, "null_class": CLASSES, "batch_size": 8}
    defaults |= {"guidance": ModeGuidance(t_stop=2), "backend": "eager", "cfg_channels": 3}
    return GuidedSampler(denoiser, **defaults | options)


def make_images(count: int) -> tuple[Tensor, Tensor, Tensor]:
    modes = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    return torch.arange(count) * 7 % CLASSES, modes, image_seeds(0, [("a", k) for k in range(count)])


INTERVALS = [(0, 999), (200, 799), (300, 999), (0, 400), (599, 599)]


@pytest.mark.parametrize("interval", INTERVALS, ids=str)
def test_null_rows_are_run_in_the_interval_alone(interval):
    dit, seen = network(), []

    def denoiser(x, timestep, class_ids):
        seen.append((int(timestep[0]), len(x), class_ids.tolist()))
        return dit(x, timestep, class_ids)

    sampler = make_sampler(denoiser, cfg_interval=interval)
    class_ids, modes, seeds = make_images(5)
    sampler.sample(class_ids, modes, seeds)
    low, high = interval
    padded = [*class_ids.tolist(), *[int(class_ids[-1])] * 3]
    for timestep, rows, ids in seen:
        inside = low <= timestep <= high
        assert rows == (16 if inside else 8)
        assert ids == padded + [CLASSES] * (8 if inside else 0)
    assert [timestep for timestep, _, _ in seen] == TIMESTEPS
    assert sampler.network_rows == sum(rows for _, rows, _ in seen) // 8


@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpmpp", "dpmpp-sde"])
def test_outside_the_interval_a_step_is_that_of_scale_1(method):
    """States of one run, each taken on by a sampler of the kind that the step should be of."""
    images, states = make_images(5), {}
    sampler = make_sampler(network(), method=method, cfg_interval=(200, 799), guidance=ModeGuidance(0.1, 2))
    latents = sampler.sample(*images, callback=lambda step, index, x: states.update({step: x.clone()}))
    assert torch.equal(states[0], latents)
    whole = make_sampler(network(), method=method, guidance=ModeGuidance(0.1, 2))
    assert not torch.allclose(whole.sample(*images), latents, atol=1e-3)

    alone = {}
    plain = make_sampler(network(), method=method, cfg_scale=1.0, guidance=ModeGuidance(0.1, 2))
    plain.sample(*images, callback=lambda step, index, x: alone.update({step: x.clone()}))
    assert torch.equal(states[5], alone[5])
    # From step 4 on there is guidance, and scale 1 goes elsewhere.
    assert not torch.allclose(states[4], alone[4], atol=1e-3)


def test_an_interval_of_everything_changes_no_byte():
    images = make_images(11)
    assert torch.equal(
        make_sampler(network(), cfg_interval=(0, 999)).sample(*images),
        make_sampler(network()).sample(*images),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["ddpm", "dpmpp-sde"])
def test_bytes_do_not_depend_on_company(method, dtype):
    sampler = make_sampler(network().to(dtype), method=method, cfg_interval=(200, 799), dtype=dtype)
    class_ids, modes, seeds = make_images(19)
    whole = sampler.sample(class_ids, modes, seeds)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(2))
    assert torch.equal(sampler.sample(class_ids[order], modes[order], seeds[order]), whole[order])
    for part in (slice(0, 1), slice(1, 4), slice(4, 19)):
        assert torch.equal(sampler.sample(class_ids[part], modes[part], seeds[part]), whole[part])


class Nothing:
    needs_group = False

    def __init__(self, needs_grad: bool) -> None:
        self.needs_grad = needs_grad

    def __call__(self, state: StepState) -> Tensor:
        assert state.x_t.shape == state.x0.shape == state.mean.shape
        return torch.zeros_like(state.x_t)


@pytest.mark.parametrize("needs_grad", [False, True])
def test_terms_run_beside_either_number_of_rows(needs_grad):
    def denoiser(x, timestep, class_ids):
        return torch.tanh(x * (1.0 + 0.1 * class_ids[:, None, None, None]))

    images = make_images(5)
    options = {"cfg_interval": (200, 799), "method": "dpmpp"}
    plain = make_sampler(denoiser, **options).sample(*images)
    beside = make_sampler(denoiser, terms=(Nothing(needs_grad),), **options).sample(*images)
    assert torch.equal(beside, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cfg_interval": (0, 1000)}, "a lowest and a highest timestep from 0 to 999, got 0, 1000"),
        ({"cfg_interval": (500, 400)}, "a lowest and a highest timestep from 0 to 999, got 500, 400"),
        ({"cfg_interval": (500,)}, "a lowest and a highest timestep from 0 to 999, got 500"),
        ({"cfg_interval": (0.1, 500)}, "a lowest and a highest timestep from 0 to 999, got 0.1, 500"),
        (
            {"cfg_interval": (1, 199)},
            "1 to 199 holds none of the run's timesteps; the nearest are 0 and 200",
        ),
        ({"cfg_interval": (0, 500), "cfg_scale": 1.0}, "cfg_interval must be left out where cfg_scale is 1"),
    ],
)
def test_wrong_intervals_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(network(), **options)
