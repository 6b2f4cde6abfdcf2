"""`--preset`: nothing changes without it; fast is what docs/fast.md says, and what is given goes first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.config import DistillConfig, SamplingDefaults
from mgd3_fast.errors import UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.progress import SILENT
from mgd3_fast.run.preparing import prepare

DEMO = SamplingDefaults(cfg_scale=2.0, mode_scale=0.2, t_stop=0)
CONFIG = DistillConfig(dataset="mnist5k", ipc=1, out="never-written")


@pytest.mark.parametrize(
    ("name", "defaults"), [("demo-mnist5k", DEMO), ("dit-xl-2-256", SamplingDefaults())], ids=str
)
def test_without_a_preset_nothing_is_approximate(name: str, defaults: SamplingDefaults) -> None:
    generator = load_generator(name)
    completed = CONFIG.completed(generator.presets)
    assert completed is CONFIG
    assert completed.sampling(generator.defaults) == generator.defaults == defaults
    assert (completed.cfg_interval, completed.cache_steps, completed.t_stop_of) == (None, None, None)
    assert (defaults.sampler, defaults.steps) == ("ddpm", 50)


@pytest.mark.parametrize(
    ("name", "mode_scale", "t_stop", "cfg_scale"),
    [("demo-mnist5k", 0.5, 0, 2.0), ("dit-xl-2-256", 0.25, 5, 4.0)],
)
def test_fast(name: str, mode_scale: float, t_stop: int, cfg_scale: float) -> None:
    generator = load_generator(name)
    fast = replace(CONFIG, preset="fast").completed(generator.presets)
    assert fast.sampling(generator.defaults) == SamplingDefaults(
        steps=12, mode_scale=mode_scale, t_stop=t_stop, cfg_scale=cfg_scale
    )
    assert fast.cfg_interval == (100, 700)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cfg_interval": (0, 400)}, {"cfg_interval": (0, 400), "steps": 12}),
        ({"steps": 24, "mode_scale": 0.3}, {"steps": 24, "mode_scale": 0.3, "t_stop": 10}),
        ({"t_stop": 3}, {"t_stop": 3, "t_stop_of": None, "mode_scale": 0.25}),
        ({"t_stop_of": 24}, {"t_stop": 10}),
        ({"cfg_scale": 1.0}, {"cfg_interval": None, "steps": 12}),
        ({"method": "unguided", "steps": 20}, {"steps": 20, "mode_scale": None, "cfg_interval": (100, 700)}),
    ],
    ids=str,
)
def test_what_is_given_goes_before_fast(given: dict[str, Any], expected: dict[str, Any]) -> None:
    completed = replace(CONFIG, preset="fast", **given).completed(load_generator("dit-xl-2-256").presets)
    assert {name: getattr(completed, name) for name in expected} == expected


def test_where_fast_is_not_known(tiny_generator: Path) -> None:
    fast = replace(CONFIG, preset="fast")
    with pytest.raises(UserError, match="--preset must be paper for this generator: fast is for a DiT of 50"):
        fast.completed(load_generator(str(tiny_generator)).presets)
    with pytest.raises(UserError, match="--mode-scale must be given with --steps 20 and --preset fast"):
        replace(fast, steps=20).completed(load_generator("demo-mnist5k").presets)
    with pytest.raises(UserError, match="steps_offset must come with spacing leading, got 1 alone"):
        replace(fast, steps_offset=1).completed(load_generator("demo-mnist5k").presets)


def test_the_manifest_names_it(cache: Path) -> None:
    plain, fast = (prepare(replace(CONFIG, preset=preset), SILENT) for preset in (None, "fast"))
    assert "preset" not in plain.sections()
    assert fast.sections()["preset"] == "fast"
    changed = {name for name, value in fast.settings().items() if plain.settings().get(name) != value}
    assert changed == {"steps", "cfg_interval", "mode_scale"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_order": 1}, "cache_order and cache_from must come with cache_steps"),
        ({"cache_steps": 2, "cache_order": 3}, "cache_order must be a whole number from 0 to 2, got 3"),
        ({"cache_steps": 0}, "cache_steps must be a whole number of at least 1, got 0"),
        ({"cache_steps": 2, "backend": "tensorrt"}, "backend must be one of auto, eager with --cache-steps"),
        ({"cache_steps": 2}, "--cache-from must be above --cache-order, got 0 and 0"),
        ({"cache_steps": 2, "cache_order": 1, "cache_from": 1}, "--cache-from must be above --cache-order"),
        ({"method": "random", "cache_steps": 2}, "cache_steps must be left out with method random"),
    ],
    ids=str,
)
def test_caching_where_it_cannot_work(options: dict[str, Any], message: str, cache: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(replace(CONFIG, **options), SILENT)
