"""Guidance terms of a user: group repulsion without gradient, an energy through the network with one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from mgd3_engine import GuidanceTerm, GuidedSampler, ModeGuidance, NoiseSchedule, StepState, image_seeds

CLASSES, SHAPE, STEPS = 6, (4, 4, 4), 10


@dataclass
class Repulsion:
    """Push the predicted clean latents of a class apart: sum_j (x0_i - x0_j) / (|x0_i - x0_j|^2 + 1)."""

    scale: float = 0.1
    needs_grad: bool = False
    needs_group: bool = True
    groups: list[tuple[int, list[int]]] = field(default_factory=list)

    def __call__(self, state: StepState) -> Tensor:
        delta = torch.zeros_like(state.x_t)
        for class_id in state.class_ids.unique().tolist():
            members = (state.class_ids == class_id).nonzero()[:, 0]
            self.groups.append((class_id, state.image_index[members].tolist()))
            x0 = state.x0[members]
            gap = x0[:, None] - x0[None]  # [n, n, C, H, W]
            weight = 1.0 / (gap.square().flatten(2).sum(-1) + 1.0)
            delta[members] = self.scale * state.sigma[members] * (gap * weight[..., None, None, None]).sum(1)
        return delta


@dataclass
class EnergyDescent:
    """Descend |classifier(x0) - target|^2 by its gradient through the denoiser."""

    classifier: nn.Module
    scale: float = 0.5
    needs_grad: bool = True
    needs_group: bool = False
    energies: list[float] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    keep: bool = False

    def __call__(self, state: StepState) -> Tensor:
        energy = (self.classifier(state.x0.flatten(1)) - 2.0).square().sum()
        (gradient,) = torch.autograd.grad(energy, state.x_t)
        self.energies.append(float(energy.detach()))
        if self.keep:
            self.gradients.append(gradient)
        return -self.scale * gradient / (1.0 + gradient.flatten(1).norm(dim=1)[:, None, None, None])


class ToyNet(nn.Module):
    """The denoiser of N(0, I) latents plus a part that depends on x, timestep and class; learned variance."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.enter, self.leave, self.classes = (
            nn.Linear(64, 48),
            nn.Linear(48, 128),
            nn.Embedding(CLASSES + 1, 48),
        )
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(
                parameter[0].numel()
            )
        self.requires_grad_(False)
        self.abar = torch.from_numpy(NoiseSchedule.linear().alphas_cumprod.copy()).float()

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        condition = self.classes(class_ids) + torch.sin(0.01 * timestep[:, None])
        hidden = torch.tanh(self.enter(x.flatten(1)) + condition.to(x.dtype))
        out = torch.tanh(self.leave(hidden)).view(-1, 8, 4, 4)
        noise = torch.sqrt(1 - self.abar[timestep])[:, None, None, None] * x
        return torch.cat([noise + 0.3 * out[:, :4], out[:, 4:]], dim=1)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(64, 3).requires_grad_(False)


def make_sampler(*terms: GuidanceTerm, **options) -> GuidedSampler:
    defaults = {"schedule": NoiseSchedule.linear(), "steps": STEPS, "null_class": CLASSES, "batch_size": 8}
    defaults |= {"guidance": ModeGuidance(t_stop=5), "backend": "eager", "terms": terms, "cfg_channels": 3}
    return GuidedSampler(ToyNet(), **defaults | options)


def make_images(class_ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    modes = torch.randn(len(class_ids), *SHAPE, generator=torch.Generator().manual_seed(1))
    return torch.tensor(class_ids), modes, image_seeds(0, [(str(c), k) for k, c in enumerate(class_ids)])


INTERLEAVED = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 3]  # sizes 4, 4, 3, 1


def test_a_group_term_sees_whole_classes_once_a_step():
    term = Repulsion()
    make_sampler(term).sample(*make_images(INTERLEAVED))
    members = {c: [k for k, other in enumerate(INTERLEAVED) if other == c] for c in set(INTERLEAVED)}
    assert len(term.groups) == 4 * STEPS
    assert all(group == members[class_id] for class_id, group in term.groups)


def test_repulsion_spreads_a_class():
    images = make_images([2] * 8)

    def spread(*terms: GuidanceTerm) -> float:
        return float(torch.pdist(make_sampler(*terms, method="ddim").sample(*images).flatten(1)).mean())

    assert spread(Repulsion(scale=5.0)) > 1.15 * spread()


def test_a_group_that_fits_no_batch_is_refused_before_sampling():
    term = Repulsion()
    with pytest.raises(ValueError, match=r"batch_size must be at least 9, the images of class 4, .* got 8"):
        make_sampler(term).sample(*make_images([4] * 9))
    assert not term.groups


def test_a_gradient_term_lowers_its_energy():
    images, judge = make_images([0, 1, 2]), classifier()
    watched, free = EnergyDescent(judge, scale=1.0), EnergyDescent(judge, scale=0.0)
    for term in (watched, free):
        make_sampler(term, method="ddim").sample(*images)
    assert watched.energies[-1] < 0.7 * free.energies[-1]
    assert free.energies[0] == watched.energies[0]


def test_the_gradient_goes_through_the_network_and_its_guidance():
    """The gradient a term gets equals finite differences of the same energy in the state."""
    images, judge = make_images([3]), classifier().double()
    term = EnergyDescent(judge.float(), scale=0.0, keep=True)
    states: list[Tensor] = []
    sampler = make_sampler(term)
    sampler.sample(*images, callback=lambda step, index, x: states.append(x.clone()))
    network, table = ToyNet().double(), sampler._table.double()  # the row i = 4 of the table, by hand
    step, timestep = 4, int(sampler.respaced.timesteps[4])
    x = states[STEPS - 1 - step - 1].double()  # the state that step 4 starts from

    def energy(x: Tensor) -> Tensor:
        ids = torch.tensor([3, CLASSES])
        cond, null = network(x.repeat(2, 1, 1, 1), torch.full((2,), timestep), ids)[:, :4]
        eps = torch.cat([null[:3] + 4.0 * (cond[:3] - null[:3]), cond[3:]])
        x0 = table[step, 0] * x + table[step, 1] * eps
        return (judge.double()(x0.flatten(1)) - 2.0).square().sum()

    difference = torch.zeros_like(x)
    for place in range(x.numel()):
        bump = torch.zeros(x.numel(), dtype=torch.float64)
        bump[place] = 1e-4
        bump = bump.view_as(x)
        difference.view(-1)[place] = (energy(x + bump) - energy(x - bump)) / 2e-4
    gradient = term.gradients[STEPS - 1 - step].double()
    assert float((gradient - difference).norm() / difference.norm()) < 1e-5


class Recorder:
    """Keeps every state; acts by a constant."""

    needs_group = False

    def __init__(self, needs_grad: bool = False, delta: float = 0.0) -> None:
        self.needs_grad, self.delta, self.states = needs_grad, delta, []

    def __call__(self, state: StepState) -> Tensor:
        self.states.append(state)
        return torch.full_like(state.x_t, self.delta)


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpmpp"])
def test_a_term_that_adds_nothing_changes_no_byte(needs_grad, method):
    images = make_images([0, 1, 5])
    plain = make_sampler(method=method).sample(*images)
    recorder = Recorder(needs_grad)
    assert torch.equal(make_sampler(recorder, method=method).sample(*images), plain)
    assert [state.step for state in recorder.states] == list(range(STEPS - 1, -1, -1))


@pytest.mark.parametrize("method", ["ddim", "dpmpp"])
def test_the_state_satisfies_its_definitions(method):
    class_ids, modes, seeds = make_images([0, 1, 5])
    recorder, inputs = Recorder(), []
    sampler = make_sampler(recorder, method=method, guidance=None)
    latents = sampler.sample(
        class_ids, modes, seeds, callback=lambda step, index, x: inputs.append(x.clone())
    )
    respaced = sampler.respaced
    for place, state in enumerate(recorder.states):
        abar = float(respaced.alphas_cumprod[state.step])
        noised = math.sqrt(abar) * state.x0 + math.sqrt(1 - abar) * state.eps
        torch.testing.assert_close(noised, state.x_t, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state.mean, inputs[place], rtol=1e-5, atol=1e-5)  # neither adds noise
        if place:
            assert torch.equal(state.x_t, inputs[place - 1])
        assert state.timestep == respaced.timesteps[state.step]
        assert torch.equal(state.class_ids, class_ids)
        assert torch.equal(state.modes, modes)
        assert state.image_index.tolist() == [0, 1, 2]
        low, high = respaced.posterior_log_variance_clipped[state.step], math.log(respaced.betas[state.step])
        assert (state.sigma >= math.exp(0.5 * low) * 0.999).all()
        assert (state.sigma <= math.exp(0.5 * max(low, high)) * 1.001).all()
    torch.testing.assert_close(recorder.states[-1].x0, latents, rtol=1e-5, atol=1e-5)


def test_deltas_add_up_and_reach_the_network():
    images = make_images([0, 1])
    both = make_sampler(Recorder(delta=0.25), Recorder(delta=0.5)).sample(*images)
    assert torch.equal(both, make_sampler(Recorder(delta=0.75)).sample(*images))
    at_the_end_only = make_sampler().sample(*images) + 0.75
    assert float((both - at_the_end_only).abs().max()) > 0.5


@pytest.mark.parametrize(
    ("returned", "got"), [(None, "NoneType"), (torch.zeros(3), r"\[3\]"), (1.0, "float")], ids=str
)
def test_what_is_not_a_delta_is_refused(returned, got):
    class Wrong:
        needs_grad = needs_group = False

        def __call__(self, state: StepState) -> Tensor:
            return returned

    with pytest.raises(
        ValueError, match=rf"guidance term Wrong must return a delta .* \[2, 4, 4, 4\], got {got}"
    ):
        make_sampler(Wrong()).sample(*make_images([0, 1]))


def test_terms_follow_the_protocol():
    assert isinstance(Repulsion(), GuidanceTerm)
    assert isinstance(EnergyDescent(classifier()), GuidanceTerm)
    assert not isinstance(lambda state: state.x_t, GuidanceTerm)


def test_the_bytes_of_a_group_do_not_depend_on_other_classes():
    class_ids, modes, seeds = make_images(INTERLEAVED)
    whole = make_sampler(Repulsion()).sample(class_ids, modes, seeds)
    only = class_ids == 2
    assert torch.equal(
        make_sampler(Repulsion()).sample(class_ids[only], modes[only], seeds[only]), whole[only]
    )
