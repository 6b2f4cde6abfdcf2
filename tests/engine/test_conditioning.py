"""Hoisted conditioning: the same latents as a network that gets timestep and class at every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, image_seeds
from mgd3_engine.sampling.conditioning import HoistedNetwork, PlainNetwork, bind_network

STEPS, ROWS, M = 5, 8, 3
# Largest difference over the root mean square of latents after 25 steps, float32. Measured: 0, bit for bit; a
# matrix library is free to add up a call of S rows in another order than one of R.
AGAINST_PLAIN = 2e-6


class Scaled:
    """A hoisted denoiser whose modulation names its step and class, and which counts its calls."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        return self.denoise(x, self.modulation(timestep, class_ids))

    def modulation(self, timestep: Tensor, class_ids: Tensor) -> Tensor:
        self.asked += class_ids[:1].tolist()
        return torch.stack([timestep, class_ids, timestep * 1000 + class_ids], dim=1).float()

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        return x * modulation[:, 2].view(-1, 1, 1, 1)


TIMESTEPS = torch.tensor([0, 10, 20, 30, 40])


def run(network: HoistedNetwork, step: int) -> list[int]:
    return [int(value) for value in network(torch.ones(ROWS, 1, 1, 1), step).flatten()]


def test_every_row_gets_its_class_and_its_step():
    network = HoistedNetwork(Scaled(), TIMESTEPS, ROWS, ROWS)
    for classes in ([1, 2, 3, 4, 9, 9, 9, 9], [4, 4, 4, 4, 9, 9, 9, 9], [7, 6, 5, 4, 3, 2, 1, 0]):
        network.load(classes)
        for step in range(STEPS):
            assert run(network, step) == [step * 10_000 + class_id for class_id in classes]


def test_a_class_is_computed_once_while_there_is_room():
    denoiser = Scaled()
    network = HoistedNetwork(denoiser, TIMESTEPS, ROWS, ROWS)
    assert network.load([1, 1, 2, 2, 9, 9, 9, 9]) is True
    assert denoiser.asked == [1, 2, 9]
    assert network.load([3, 3, 3, 3, 9, 9, 9, 9]) is False
    assert denoiser.asked == [1, 2, 9, 3]
    # Four slots are full: the class unused for longest makes room, the null class stays.
    assert network.load([4, 4, 4, 4, 9, 9, 9, 9]) is False
    assert network.load([2, 2, 2, 2, 9, 9, 9, 9]) is False
    assert denoiser.asked == [1, 2, 9, 3, 4]
    assert network.load([1, 2, 3, 4, 5, 9, 9, 9]) is True
    assert run(network, 1) == [10_001, 10_002, 10_003, 10_004, 10_005, 10_009, 10_009, 10_009]


def test_the_table_does_not_grow_beyond_the_most_classes():
    network = HoistedNetwork(Scaled(), TIMESTEPS, ROWS, 5)
    assert [network.load([*range(n)] + [0] * (ROWS - n)) for n in (3, 4, 5, 2)] == [True, False, True, False]
    assert len(network._table[0]) == 5


def test_one_slot_is_enough_for_one_class_at_a_time():
    denoiser = Scaled()
    network = HoistedNetwork(denoiser, TIMESTEPS, 1, 1)
    assert [network.load([class_id]) for class_id in (3, 3, 4, 3)] == [True, False, False, False]
    assert denoiser.asked == [3, 4, 3]
    assert int(network(torch.ones(1, 1, 1, 1), 4)) == 40_003


def test_only_denoisers_of_two_parts_are_hoisted():
    denoiser = Scaled()
    assert isinstance(bind_network(denoiser, TIMESTEPS, ROWS, ROWS), HoistedNetwork)
    plain = bind_network(denoiser.__call__, TIMESTEPS, ROWS, ROWS)
    assert isinstance(plain, PlainNetwork)
    assert plain.load([1] * ROWS) is False
    assert run(plain, 2) == [20_001] * ROWS


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_a_dit_samples_the_same_latents_either_way(method, demo_network):
    def sampled(denoiser) -> Tensor:
        sampler = GuidedSampler(
            denoiser,
            schedule=NoiseSchedule.linear(),
            method=method,
            steps=25,
            null_class=10,
            guidance=ModeGuidance(t_stop=12),
            backend="eager",
            batch_size=8,
        )
        modes = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return sampler.sample(torch.arange(5), modes, image_seeds(0, [("a", k) for k in range(5)]))

    hoisted, plain = sampled(demo_network), sampled(lambda *inputs: demo_network(*inputs))
    error = float((hoisted - plain).abs().max() / plain.square().mean().sqrt())
    print(f"{method}: {error:.1e} of the root mean square")
    assert error < AGAINST_PLAIN


@pytest.fixture(scope="module")
def demo_network():
    from mgd3_fast.generators import load_generator

    return load_generator("demo-mnist5k").denoiser("cpu", torch.float32)
