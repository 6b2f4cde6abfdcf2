"""Caching between steps: the papers' formulas in float64, and runs with it against runs without."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mgd3_engine import FeatureCache, GuidedSampler, ModeGuidance, NoiseSchedule, image_seeds
from mgd3_engine.dit import DiT, DiTConfig
from mgd3_engine.sampling.conditioning import bind_network
from mgd3_engine.sampling.feature_cache import taylor_weights
from tests.fakes.random_networks import random_dit
from tests.fakes.recording import record_phases

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, SHAPE, STEPS = 10, (4, 8, 8), 12
CONFIG = DiTConfig(input_size=8, patch_size=2, hidden_size=48, depth=2, num_heads=3, num_classes=CLASSES)


def make_sampler(network, **options) -> GuidedSampler:
    defaults = {"schedule": NoiseSchedule.linear(), "steps": STEPS, "null_class": CLASSES, "batch_size": 8}
    return GuidedSampler(network, **defaults | {"guidance": ModeGuidance(t_stop=7)} | options)


def make_images(count: int, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    modes = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(start))
    class_ids = (torch.arange(count) * 7 + start) % CLASSES
    return class_ids, modes, image_seeds(start, [("a", start + k) for k in range(count)])


def differences(kept: list[Tensor], order: int) -> Tensor:
    """Delta^i F of features at equal distances, newest first (TaylorSeer, section 3)."""
    return kept[0] if order == 0 else differences(kept[:-1], order - 1) - differences(kept[1:], order - 1)


@pytest.mark.parametrize("interval", [2, 3, 4])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_weights_are_those_of_the_paper(interval, order):
    """F(s_0 - k) = sum_i Delta^i F k^i / (i! N^i), with computed steps N apart."""
    generator = torch.Generator().manual_seed(0)
    kept = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(order + 1)]
    computed = [20 + interval * back for back in range(order + 1)]
    for ahead in range(1, interval):
        expected = sum(
            differences(kept[: i + 1], i) * ahead**i / (math.factorial(i) * interval**i)
            for i in range(order + 1)
        )
        weights = taylor_weights(computed, 20 - ahead)
        got = sum(weight * one for weight, one in zip(weights, kept, strict=True))
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


def test_which_steps_are_computed():
    for cache, computed in ((FeatureCache(3), [8, 5, 2]), (FeatureCache(3, order=2), [8, 7, 6, 3, 0])):
        plan = cache.plan(range(8, -1, -1))
        assert [step for step, weights in plan.items() if not weights] == computed
        assert {len(weights) for weights in plan.values()} == {0, cache.order + 1}
    assert not any(FeatureCache(1, order=1).plan(range(8, -1, -1)).values())


def added_by_blocks(network: DiT, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
    """What the blocks add to the tokens, block after block as the paper draws them (Peebles & Xie 2023)."""
    tokens = start = network.x_embedder(x, network.pos_embed)
    conditioning = network.t_embedder(timestep, x.dtype) + network.y_embedder(class_ids)
    for block in network.blocks:
        six = block.adaLN_modulation(conditioning)[:, None].chunk(6, dim=2)
        for branch, (shift, scale, gate) in ((block.attn, six[:3]), (block.mlp, six[3:])):
            normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
            tokens = tokens + gate * branch(normed * (1 + scale) + shift)
    return tokens - start


def last_layer(network: DiT, tokens: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
    conditioning = network.t_embedder(timestep, tokens.dtype) + network.y_embedder(class_ids)
    shift, scale = network.final_layer.adaLN_modulation(conditioning)[:, None].chunk(2, dim=2)
    normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    pixels = network.final_layer.linear(normed * (1 + scale) + shift).view(len(tokens), 4, 4, 2, 2, 8)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), 8, 8, 8)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_cached_network_is_the_formulas_in_float64(order):
    network = random_dit(CONFIG).double()
    timesteps = torch.linspace(0, 999, STEPS).round().long()
    cache = FeatureCache(3, order)
    steps = range(STEPS - 1, -1, -1)
    cached = bind_network(network, timesteps, 3, 3, cache.plan(steps))
    class_ids = torch.tensor([1, 2, CLASSES])
    cached.load(class_ids.tolist())
    generator = torch.Generator().manual_seed(1)
    kept: dict[int, Tensor] = {}
    for place, step in enumerate(steps):
        x = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
        at = timesteps[step].expand(3)
        if place <= order or (place - order) % 3 == 0:
            added = kept[step] = added_by_blocks(network, x, at, class_ids)
        else:
            newest = sorted(kept)[: order + 1]
            weights = taylor_weights(newest, step)
            added = sum(weight * kept[one] for weight, one in zip(weights, newest, strict=True))
        tokens = network.x_embedder(x, network.pos_embed) + added
        expected = last_layer(network, tokens, at, class_ids)
        got = cached(x, step).reshape(3, 8, 8, 8)
        assert (got - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("method", ["ddpm", "dpmpp"])
def test_an_interval_of_1_changes_no_byte(method):
    network, images = random_dit(CONFIG), make_images(11)
    exact = make_sampler(network, method=method)
    one = make_sampler(network, method=method, cache=FeatureCache(1, order=2, start=9))
    assert torch.equal(one.sample(*images), exact.sample(*images))
    assert one.network_rows == exact.network_rows


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "dpmpp"}, {"cfg_interval": (100, 500)}, {"guidance": None}, {"dtype": torch.bfloat16}],
    ids=str,
)
@pytest.mark.parametrize("order", [0, 2])
def test_replays_and_company_change_no_byte(options, order):
    network = random_dit(CONFIG).to(options.get("dtype", torch.float32))
    cache = FeatureCache(2, order)
    eager, sampler = (make_sampler(network, cache=cache, **options) for _ in range(2))
    recorder = record_phases(sampler)
    for start in (0, 20):
        class_ids, modes, seeds = make_images(19, start)
        whole = eager.sample(class_ids, modes, seeds)
        assert torch.equal(sampler.sample(class_ids, modes, seeds), whole)
        assert torch.equal(eager.sample(class_ids[4:9], modes[4:9], seeds[4:9]), whole[4:9])
    assert sum(phase.replays for phase in recorder.phases) > 0
    assert not torch.equal(make_sampler(network, **options).sample(*make_images(19, 20)), whole)


def test_guided_steps_are_computed_unless_start_says_otherwise():
    """The blocks run on 4 guided steps and, of 8 others, 7, 4 and 1; with start 10 on 11, 10, 7, 4 and 1."""
    network, images, calls = random_dit(CONFIG), make_images(8), []
    run_blocks = network._run_blocks
    network._run_blocks = lambda *args: calls.append(1) or run_blocks(*args)
    for cache, expected in ((FeatureCache(3), 4 + 3), (FeatureCache(3, start=10), 1 + 1 + 3)):
        sampler = make_sampler(network, cache=cache)
        calls.clear()
        sampler.sample(*images)
        assert len(calls) == sampler.network_rows // 2 == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": FeatureCache(2), "backend": "compiled"}, "backend must be auto or eager with a cache"),
        (
            {"cache": FeatureCache(2), "guidance": ModeGuidance(t_stop=0)},
            "must have more than 1 equal steps in a row",
        ),
        (
            {"cache": FeatureCache(2, 2, start=2), "guidance": None},
            "more than 3 equal steps in a row with order 2",
        ),
        ({"cache": FeatureCache(2), "terms": [SimpleNamespace(needs_grad=True)]}, "need no gradient with a"),
    ],
)
def test_where_it_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(random_dit(CONFIG), **options)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="denoiser must be a DiT with a cache, got function"):
        make_sampler(lambda x, timestep, class_ids: x, cache=FeatureCache(2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0,), "interval must be a whole"),
        ((2, 3), "order must be from 0 to 2"),
        ((2, 0, -1), "start must be"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        FeatureCache(*values)
