"""DPM-Solver++(2M) in the sampler: against diffusers, against itself on more steps, and at its edges.

The formulas in float64, with every form of mode guidance, are in `test_numerics_float64.py`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, step_table
from mgd3_kernels import Coefficient as K

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, SHAPE = 6, (4, 4, 4)
METHODS = ("dpmpp", "dpmpp-sde")
# Largest |error| of a latent over the root mean square of all. Measured: 4.0e-6.
BOUND = 1e-5


class Net(nn.Module):
    """Noise of unit scale, or v, at every timestep, that depends on x, timestep and class."""

    def __init__(self, prediction: str = "epsilon", learned: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.prediction = prediction
        self.mix, self.classes = nn.Conv2d(4, 8 if learned else 4, 3, padding=1), nn.Embedding(CLASSES + 1, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 6.0
        self.requires_grad_(False)
        self.abar = torch.from_numpy(NoiseSchedule.linear().alphas_cumprod.copy()).float()

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        condition = self.classes(class_ids) + torch.cos(timestep[:, None] * 0.003)
        out = torch.tanh(self.mix(x + condition[:, :, None, None]))
        if self.prediction == "epsilon":
            out[:, :4] = 0.3 * out[:, :4] + torch.sqrt(1 - self.abar[timestep])[:, None, None, None] * x
        return out


def make_sampler(network: nn.Module | None = None, **options) -> GuidedSampler:
    defaults = {"schedule": NoiseSchedule.linear(), "steps": 20, "method": "dpmpp", "null_class": CLASSES}
    defaults |= {"guidance": None, "batch_size": 8, "backend": "eager"}
    return GuidedSampler(network or Net(), **defaults | options)


def noise(step: int, image: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000 * step + image))


CLASS_IDS = torch.tensor([0, 3, 5])
MODES = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5))


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.square().mean().sqrt())


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize(("prediction", "learned"), [("epsilon", False), ("epsilon", True), ("v", False)])
@pytest.mark.parametrize("method", METHODS)
def test_unguided_latents_are_those_of_diffusers(method, prediction, learned, steps):
    diffusers = pytest.importorskip("diffusers")
    network, schedule = Net(prediction, learned), NoiseSchedule.linear()
    sampler = make_sampler(network, method=method, prediction=prediction, steps=steps)
    got = sampler.sample(CLASS_IDS, None, None, latent_shape=SHAPE, noise=noise)

    theirs = diffusers.DPMSolverMultistepScheduler(
        trained_betas=schedule.betas,
        algorithm_type="dpmsolver++" if method == "dpmpp" else "sde-dpmsolver++",
        prediction_type="epsilon" if prediction == "epsilon" else "v_prediction",
        final_sigmas_type="zero",
    )
    theirs.set_timesteps(timesteps=sampler.respaced.timesteps[::-1].tolist())
    # Its float32 copy of the noise levels alone moves the latents by 3e-5.
    levels = np.sqrt(1 / sampler.respaced.alphas_cumprod[::-1] - 1)
    theirs.sigmas = torch.from_numpy(np.append(levels, 0.0))
    x = torch.stack([noise(steps, image) for image in range(3)])
    for step, timestep in zip(range(steps - 1, -1, -1), theirs.timesteps, strict=True):
        ids = torch.cat([CLASS_IDS, torch.full((3,), CLASSES)])
        cond, null = network(torch.cat([x, x]), timestep.repeat(6), ids)[:, :4].chunk(2)
        z = torch.stack([noise(step, image) for image in range(3)])
        x = theirs.step(null + 4.0 * (cond - null), timestep, x, variance_noise=z).prev_sample
    error = relative_error(got, x)
    print(f"{method}, {prediction}, {steps} steps: {error:.1e}")
    assert error < BOUND


def test_second_order_in_the_number_of_steps():
    """Twice the steps leave about a quarter of the error; measured: 0.11 at 40, 0.030 at 80."""
    fine = make_sampler(Net("v"), prediction="v", steps=1000, cfg_scale=1.0, method="ddim")

    def start(step: int, image: int) -> Tensor:
        return noise(0, image)

    arguments = {"latent_shape": SHAPE, "noise": start}
    want = fine.sample(CLASS_IDS, None, None, **arguments)
    errors = {}
    for method, steps in (("dpmpp", 40), ("dpmpp", 80), ("ddim", 80)):
        sampler = make_sampler(Net("v"), prediction="v", steps=steps, cfg_scale=1.0, method=method)
        errors[method, steps] = relative_error(sampler.sample(CLASS_IDS, None, None, **arguments), want)
    print(errors)
    assert errors["dpmpp", 80] < 0.35 * errors["dpmpp", 40]
    assert errors["dpmpp", 80] < 0.5 * errors["ddim", 80]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strength", [1.0, 0.5, 0.05])
def test_a_start_at_the_noised_mode_begins_in_first_order(method, strength):
    """What an earlier batch left in the history, NaN too, does not reach the next one."""
    sampler = make_sampler(method=method, start_strength=strength)
    seeds = torch.arange(3)
    want = sampler.sample(CLASS_IDS, MODES, seeds)
    (workspace,) = sampler._workspaces._kept.values()
    workspace.buffers.history.fill_(math.nan)
    assert torch.equal(sampler.sample(CLASS_IDS, MODES, seeds), want)
    first = sampler._phases[0].steps[0]
    assert first == round(20 * strength) - 1
    assert sampler._table[first, K.NEXT_FROM_PREVIOUS] == 0.0


def test_phases_begin_in_first_order():
    sampler = make_sampler(guidance=ModeGuidance(t_stop=9), cfg_interval=(200, 800))
    assert [phase.steps for phase in sampler._phases] == [
        range(19, 15, -1),
        range(15, 9, -1),
        range(9, 3, -1),
        range(3, -1, -1),
    ]
    first_order = (sampler._table[:, K.NEXT_FROM_PREVIOUS] == 0).nonzero()[:, 0].tolist()
    assert first_order == [0, 3, 9, 15, 19]


@pytest.mark.parametrize("schedule", [NoiseSchedule.linear(), NoiseSchedule.scaled_linear()])
@pytest.mark.parametrize("method", METHODS)
def test_rows_keep_a_clean_latent_and_its_noise(schedule, method):
    """x = a x0 + s eps with x0 the same at every step: the next x has x0 by a' and the right variance."""
    respaced = schedule.respaced(20)
    row = dict(zip(K, step_table(respaced, method=method).double().numpy().T, strict=True))
    a, s = np.sqrt(respaced.alphas_cumprod), np.sqrt(1 - respaced.alphas_cumprod)
    next_a, next_s = np.sqrt(respaced.alphas_cumprod_prev), np.sqrt(1 - respaced.alphas_cumprod_prev)
    of_x0 = row[K.NEXT_FROM_X0] + row[K.NEXT_FROM_PREVIOUS] + row[K.NEXT_FROM_X] * a
    np.testing.assert_allclose(of_x0, next_a, rtol=1e-6)
    deviation = np.hypot(row[K.NEXT_FROM_X] * s, row[K.NOISE_STD])
    np.testing.assert_allclose(deviation, next_s, rtol=1e-6, atol=1e-7)
    assert row[K.NOISE_STD].any() == (method == "dpmpp-sde")


def test_a_schedule_that_ends_in_noise_alone():
    """Almost no signal at the last timestep, as where a v-predicting network was trained to zero SNR."""
    betas = NoiseSchedule.linear().betas.copy()
    betas[-1] = 1 - 1e-7
    schedule = NoiseSchedule(betas)
    for method in METHODS:
        table = step_table(schedule.respaced(20), method=method, prediction="v")
        assert torch.isfinite(table).all()
        sampler = make_sampler(Net("v"), method=method, schedule=schedule, prediction="v")
        latents = sampler.sample(CLASS_IDS, None, torch.arange(3), latent_shape=SHAPE)
        assert 0.1 < float(latents.std()) < 10.0


def test_first_order_where_guidance_jumps_is_nearer_to_many_steps():
    """Measured, with the rule and without: 0.238 and 1.025 at 10 steps, 0.257 and 0.377 at 20."""
    options = {"prediction": "v", "cfg_interval": (200, 700)}

    def sample(sampler: GuidedSampler) -> Tensor:
        return sampler.sample(CLASS_IDS, None, None, latent_shape=SHAPE, noise=lambda step, k: noise(0, k))

    want = sample(make_sampler(Net("v"), method="ddim", steps=500, **options))
    for steps in (10, 20):
        sampler = make_sampler(Net("v"), steps=steps, **options)
        with_rule = relative_error(sample(sampler), want)
        sampler._table = step_table(sampler.respaced, method="dpmpp", prediction="v")
        without = relative_error(sample(sampler), want)
        print(f"{steps} steps: {with_rule:.3f} with the rule, {without:.3f} without")
        assert with_rule < without
