"""What is chosen where nothing was given: the resolution, sizes, steps, averages and guidance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mgd3_fast.config.train import TrainConfig
from mgd3_fast.datasets import ArrayImages, Dataset, Framing, ImageClass
from mgd3_fast.errors import UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.train import train_generator
from mgd3_fast.train.preset import LARGE, SMALL, Preset, completed, preset_of, resolution_for, steps_of
from tests.fakes.tiny_training import tiny_config, write_images

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def dataset_of(*sides: int) -> Dataset:
    """A class of one image, a third wider than it is high, for each height."""
    classes = (
        ImageClass(str(label), label, ArrayImages(np.zeros((1, side, side * 4 // 3), dtype=np.uint8)))
        for label, side in enumerate(sides)
    )
    return Dataset("made", tuple(classes), tuple(str(label) for label in range(len(sides))))


def chosen(preset: Preset = SMALL, images: int = 1000, resolution: int = 64, **given: object) -> TrainConfig:
    config = TrainConfig(dataset="d", out="o", resolution=resolution, **given)
    return completed(config, preset, {}, images=images)


@pytest.mark.parametrize(
    ("sides", "preset", "resolution"),
    [
        ([20, 20], SMALL, 32),
        ([32], SMALL, 32),
        ([50, 63, 300], SMALL, 32),
        ([64, 70, 300], SMALL, 64),
        ([500], SMALL, 64),
        ([500], LARGE, 256),
        ([90, 200, 200, 201], LARGE, 128),
    ],
)
def test_resolution_is_a_power_of_two_that_the_images_fill(sides, preset, resolution):
    assert resolution_for(dataset_of(*sides), preset) == resolution


def test_images_of_all_classes_are_looked_at():
    """A hundred small ones at the end of a list of two hundred move the median."""
    assert resolution_for(dataset_of(*[128] * 90, *[32] * 110), LARGE) == 32


@pytest.mark.parametrize(
    ("name", "device", "init", "preset"),
    [
        ("auto", CPU, None, SMALL),
        ("auto", GPU, None, LARGE),
        ("auto", CPU, "dit-xl-2-256", LARGE),
        ("small", GPU, None, SMALL),
        ("large", CPU, None, LARGE),
    ],
)
def test_auto_goes_by_the_device(name, device, init, preset):
    assert preset_of(TrainConfig(dataset="d", out="o", preset=name, init=init), device) is preset


@pytest.mark.parametrize("preset", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_latents_are_8_to_32_a_side_and_everything_fits(preset, resolution):
    config = chosen(preset, resolution=resolution)
    side = resolution // 2 ** (len(config.vae_channels) - 1)
    assert 8 <= side <= 32
    assert side % config.patch == 0
    assert config.hidden // config.heads == preset.head_width
    assert (config.mode_scale == 0.2) == (side <= 16)
    assert (config.t_stop == 0) == (side <= 16)


def test_steps_grow_with_the_images_within_bounds():
    few, some, many = (chosen(images=images) for images in (10, 3000, 10**6))
    assert (few.steps, many.steps) == SMALL.steps
    assert some.steps == SMALL.passes * 3000 // some.batch_size
    assert few.vae_steps == SMALL.vae_steps[0]


@pytest.mark.parametrize(("steps", "ema"), [(4, 0.0), (80, 0.9), (8000, 0.999), (10**6, 0.9999)])
def test_the_average_covers_the_last_eighth_of_the_steps(steps, ema):
    assert chosen(steps=steps).ema == pytest.approx(ema)


def test_a_short_run_warms_up_over_a_tenth_of_it():
    assert chosen(steps=40).warmup == 4
    assert chosen(steps=4000).warmup == SMALL.warmup


def test_what_is_given_stays():
    given = {"hidden": 96, "lr": 0.5, "steps": 11, "vae_channels": (8, 8), "schedule": "constant", "ema": 0.1}
    config = chosen(**given, cfg_scale=3.0)
    assert {name: getattr(config, name) for name in given} == given
    assert config.heads == 3
    assert config.cfg_scale == 3.0


def test_steps_and_epochs_stand_for_the_part_they_are_said_of():
    assert steps_of(chosen(steps=11), "dit", 1000) == 11
    assert steps_of(chosen(steps=11), "vae", 1000) == chosen().vae_steps
    assert steps_of(chosen(steps=11, part="vae"), "vae", 1000) == 11
    by_epochs = chosen(epochs=2.0)
    assert steps_of(by_epochs, "vae", 1000) == 2000 // by_epochs.vae_batch_size
    assert steps_of(by_epochs, "dit", 1000) == 2000 // by_epochs.batch_size


def test_fine_tuning_keeps_the_sizes_of_its_generator():
    config = chosen(LARGE, init="dit-xl-2-256", resolution=256)
    assert config.epochs == 8.0
    assert config.hidden is config.vae_channels is config.cfg_scale is None
    assert (config.batch_size, config.lr) == (128, 1e-4)


def test_a_begun_part_keeps_what_was_chosen_for_it():
    """Also where another device would choose otherwise now."""
    before = chosen(images=500)
    recorded = {"hidden": before.hidden, "ema": before.ema, "steps": before.steps, "clip_grad": None}
    config = completed(TrainConfig(dataset="d", out="o", resolution=64), LARGE, recorded, images=900)
    assert (config.hidden, config.ema, config.steps) == (before.hidden, before.ema, before.steps)
    with_name = TrainConfig(dataset="d", out="o", resolution=64, preset="large", clip_grad=None)
    assert completed(with_name, LARGE, recorded, images=900).hidden == LARGE.fixed["hidden"]


def test_heads_that_do_not_divide_the_chosen_width_are_refused():
    with pytest.raises(UserError, match="hidden must be a multiple of 4 and of heads 7, got 160"):
        chosen(heads=7)


def test_dit_takes_its_size_from_the_autoencoder_beside_it(tmp_path):
    images = write_images(tmp_path / "images", count=2, size=(80, 70))
    short = {"hidden": 8, "heads": 1, "depth": 1, "steps": 1, "vae_steps": 1, "resolution": None}
    train_generator(tiny_config(images, tmp_path / "gen", **{**short, "part": "vae", "resolution": 32}))
    with pytest.raises(UserError, match=r"resolution must be left out or 32, which the autoencoder in .*gen"):
        train_generator(tiny_config(images, tmp_path / "gen", **{**short, "part": "dit", "resolution": 64}))
    train_generator(tiny_config(images, tmp_path / "gen", **short, part="dit"))
    description = json.loads((tmp_path / "gen/generator.json").read_text())
    assert (description["resolution"], description["latent_shape"]) == (32, [4, 16, 16])
    recipe = description["recipe"]["config"]
    assert recipe["resolution"] == 32
    assert (recipe["batch_size"], recipe["schedule"], recipe["t_stop"]) == (4, "cosine", 0)
    assert description["defaults"]["cfg_scale"] == 2.0


def test_an_autoencoder_from_elsewhere_brings_its_size_too(tmp_path, capsys):
    images = write_images(tmp_path / "images", count=2, size=(80, 70))
    short = {"hidden": 8, "heads": 1, "depth": 1, "steps": 1, "vae_steps": 1}
    vae = train_generator(tiny_config(images, tmp_path / "first", **short, part="vae")) / "vae"
    config = tiny_config(images, tmp_path / "second", **short, part="dit", vae=str(vae))
    train_generator(replace(config, resolution=None))
    assert json.loads((tmp_path / "second/generator.json").read_text())["resolution"] == 16


def test_dit_takes_the_framing_of_the_autoencoder_beside_it(tmp_path):
    images = write_images(tmp_path / "images", count=2, size=(32, 16))
    short = {"hidden": 8, "heads": 1, "depth": 1, "steps": 1, "vae_steps": 1}
    framing = {"background": "black", "fit": "pad"}
    train_generator(tiny_config(images, tmp_path / "gen", **short, **framing, part="vae"))
    out = train_generator(tiny_config(images, tmp_path / "gen", **short, part="dit"))
    assert load_generator(str(out)).framing == Framing((0, 0, 0), "pad")
    with pytest.raises(UserError, match="fit must be 'pad' to go on with the training of dit"):
        train_generator(tiny_config(images, tmp_path / "gen", **short, part="dit", fit="crop"))


def test_without_any_size_the_images_decide(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", count=2, size=(40, 35))
    tiny = {"vae_channels": (4, 8), "vae_steps": 1, "steps": 1, "hidden": 8, "depth": 1, "judge": "off"}
    out = train_generator(
        TrainConfig(dataset=str(images), out=tmp_path / "gen", cache_dir=tmp_path / "c", **tiny)
    )
    assert json.loads((out / "generator.json").read_text())["resolution"] == 32
