"""docs/settings.md states the defaults that the code has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mgd3_engine.dit import dit_config, save_dit
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.config.discover import DISCOVERIES
from mgd3_fast.config.train import TrainConfig
from mgd3_fast.generators import load_generator
from mgd3_fast.generators.ldm import LDM_DEFAULTS
from mgd3_fast.run.sampler import batch_rows
from mgd3_fast.train.preset import LARGE, SMALL, completed
from tests.fakes.random_networks import random_dit

PAGE = (Path(__file__).parents[2] / "docs/settings.md").read_text(encoding="utf-8")
CHANNELS = {"all channels": None, "3 of 4 channels": 3}


def rows(title: str) -> dict[str, list[str]]:
    """Cells of the first table below a heading, by the first cell of their row."""
    section = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    table = section[section.index("\n| ") :].split("\n\n", 1)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]
    return {first.strip("`"): rest for first, *rest in cells}


def trained(side: str) -> SamplingDefaults:
    preset, resolution = {"small": (SMALL, 32), "large": (LARGE, 256)}[side]
    config = TrainConfig(dataset="pictures", out="generator", resolution=resolution)
    filled = asdict(completed(config, preset, {}, images=1000))
    names = ("cfg_scale", "mode_scale", "t_stop")
    return replace(SamplingDefaults(), **{name: filled[name] for name in names if filled[name] is not None})


def stated(cells: list[str]) -> tuple[Mapping[str, Any], int | None]:
    """Defaults, and the channels that classifier-free guidance acts on; None is all."""
    (sampler, steps), (cfg_scale, channels) = (cell.split(", ") for cell in cells[:2])
    mode_scale, t_stop, _ = cells[2:]
    defaults = {
        "sampler": sampler,
        "steps": int(steps),
        "cfg_scale": float(cfg_scale),
        "mode_scale": float(mode_scale),
        "t_stop": int(t_stop),
    }
    return defaults, CHANNELS[channels]


@pytest.mark.parametrize("name", ["demo-mnist5k", "dit-xl-2-256", "dit-xl-2-512"])
def test_named_generators(name: str) -> None:
    generator, cells = load_generator(name), rows("Default of every generator")[name]
    assert stated(cells) == (asdict(generator.defaults), generator.cfg_channels)
    assert cells[-1] == f"{generator.resolution} px"


def test_other_families(tmp_path: Path) -> None:
    save_dit(tmp_path / "dit.safetensors", random_dit(dit_config("DiT-S/2", image_size=64)))
    file, text = load_generator(str(tmp_path / "dit.safetensors")), load_generator("stable-diffusion-1-5")
    found = {
        "file or hub id of a DiT": (file.defaults, file.cfg_channels),
        "folder of `train`, latents of at most 16 a side": (trained("small"), None),
        "folder of `train`, larger latents": (trained("large"), None),
        "latent diffusion (LDM)": (LDM_DEFAULTS, None),
        "Stable Diffusion": (text.defaults, text.cfg_channels),
    }
    table = rows("Default of every generator")
    assert {name: stated(table[name]) for name in found} == {
        name: (asdict(defaults), channels) for name, (defaults, channels) in found.items()
    }


def test_discovery_methods() -> None:
    names = [name.removesuffix(" (default)").strip("`") for name in rows("Discovery methods")]
    assert names == [*DISCOVERIES]


def test_batch_sizes() -> None:
    for name, cells in rows("Batch size").items():
        area = int(name.split("x")[0]) ** 2
        found = [batch_rows(10**6, area, device) for device in ("cuda", "cpu")]
        assert found == [int(cell) for cell in cells], name
