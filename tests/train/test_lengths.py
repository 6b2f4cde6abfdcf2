"""A training made longer or shorter, corrected, or given up; and what binds a folder to its settings."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgd3_fast.cli import main
from mgd3_fast.errors import UserError
from mgd3_fast.fit import load_checkpoint, steps_done
from mgd3_fast.progress import Progress
from mgd3_fast.train import estimate, fitting, train_generator
from tests.fakes.tiny_training import tiny_config, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "tiny")


@pytest.fixture(scope="module")
def begun(images, tmp_path_factory):
    """A finished run of both parts, constant rate, not to be changed."""
    return train_generator(tiny_config(images, tmp_path_factory.mktemp("begun") / "gen", schedule="constant"))


@pytest.fixture
def longer(images, begun, tmp_path):
    """Makes configurations of runs into a copy of `begun`."""
    shutil.copytree(begun, tmp_path / "gen")
    return partial(tiny_config, images, tmp_path / "gen", schedule="constant")


def dit_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "dit.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def told(config) -> str:
    """Train, and return what was said."""
    lines = io.StringIO()
    train_generator(config, Progress(stream=lines))
    return lines.getvalue()


def parts_of(folder: Path) -> dict:
    return json.loads((folder / "training.json").read_text())["parts"]


def test_a_longer_run_is_bitwise_one_that_was_planned_so(images, begun, longer, tmp_path):
    longer_run = train_generator(longer(steps=12))
    planned = train_generator(tiny_config(images, tmp_path / "planned", schedule="constant", steps=12))
    assert equal(dit_of(longer_run), dit_of(planned))
    assert not equal(dit_of(longer_run), dit_of(begun))
    recipe = json.loads((longer_run / "generator.json").read_text())["recipe"]
    assert recipe["config"]["steps"] == 12
    assert recipe["training"]["dit"]["planned"] == [7, 12]


def test_a_longer_autoencoder_too(images, tmp_path):
    config = partial(tiny_config, images, part="vae", schedule="constant", vae_ema=0.5)
    weights = "vae/diffusion_pytorch_model.safetensors"
    train_generator(config(tmp_path / "gen"))
    grown = train_generator(config(tmp_path / "gen", vae_steps=6))
    planned = train_generator(config(tmp_path / "planned", vae_steps=6))
    assert equal(load_file(grown / weights), load_file(planned / weights))


def test_a_longer_cosine_says_what_its_rate_is(images, tmp_path):
    config = partial(tiny_config, images, tmp_path / "gen", schedule="cosine")
    train_generator(config())
    said = told(config(steps=12))
    assert "dit: from step 7 on, the learning rate is that of a run of 12 steps" in said
    assert parts_of(tmp_path / "gen")["dit"]["curve"][-1]["step"] == 12


def test_a_shorter_run_keeps_what_is_done(begun, longer):
    said = told(longer(steps=2))
    assert "dit: 7 steps are done, more than the 2 asked for: they are kept" in said
    folder = Path(longer().out)
    assert equal(dit_of(folder), dit_of(begun))
    assert parts_of(folder)["dit"]["curve"][-1]["step"] == 7


def test_an_interrupted_run_can_be_called_done(longer, monkeypatch):
    """Of windows of two steps, as 500 steps have, one is half full."""

    class Stopping(Progress):
        def note(self, line: str) -> None:
            if line.startswith("dit step 11/500"):
                raise RuntimeError("killed")

    monkeypatch.setattr(fitting, "_NOTE_PERIOD_S", 0.0)
    with pytest.raises(RuntimeError, match="killed"):
        train_generator(longer(part="dit", steps=500, checkpoint_every=1), Stopping(stream=io.StringIO()))
    folder = train_generator(longer(part="dit", steps=1))
    assert parts_of(folder)["dit"]["curve"][-1]["step"] == 10


def test_without_a_number_of_steps_it_has_those_it_was_begun_with(begun, longer):
    folder = train_generator(longer(steps=None, vae_steps=None))
    assert equal(dit_of(folder), dit_of(begun))


def test_the_autoencoder_of_a_begun_dit_stays(longer):
    with pytest.raises(UserError, match=r"vae_steps must be 4 in .*gen, whose DiT was begun on this autoenc"):
        train_generator(longer(vae_steps=6))
    said = told(longer(vae_steps=None, steps=None, epochs=2.0))
    assert "stays at 4 steps: its DiT was begun on it" in said
    assert parts_of(Path(longer().out))["dit"]["curve"][-1]["step"] == 9


def test_nothing_is_bound_before_a_step_is_done(images, tmp_path):
    broken = write_images(tmp_path / "broken", count=2)
    (broken / "ant/0.png").write_bytes(b"no image")
    config = partial(tiny_config, broken, tmp_path / "gen")
    with pytest.raises(UserError, match=r"ant/0\.png cannot be read: .*--on-bad-image skip"):
        train_generator(config(lr=0.5, vae_lr=0.5))
    assert not (tmp_path / "gen").exists()
    assert told(config(on_bad_image="skip")).count("skipped ant/0.png: not an image") == 1


@pytest.mark.parametrize(("part", "checkpoint_every"), [("vae", 1000), ("dit", 1)])
def test_a_diverged_run_does_not_refuse_the_mended_command(images, tmp_path, part, checkpoint_every):
    lr = "vae_lr" if part == "vae" else "lr"
    config = partial(tiny_config, images, checkpoint_every=checkpoint_every, clip_grad=None, warmup=0)
    with pytest.raises(
        UserError, match=f"at step 1 of {part}: start {part} again with a lower --{lr.replace('_', '-')} "
    ):
        train_generator(config(tmp_path / "gen", **{lr: 1e30}))
    with pytest.raises(UserError, match=f"at step 1 of {part}"):  # the same again
        train_generator(config(tmp_path / "gen", **{lr: 1e30}))
    mended = train_generator(config(tmp_path / "gen", **{lr: 1e-3}))
    recorded = parts_of(mended)[part]
    assert recorded["settings"][lr] == 1e-3
    assert "diverged" not in recorded
    assert recorded["curve"][0]["step"] == 1  # it started again


def test_a_diverged_dit_is_mended_by_what_the_finished_autoencoder_was_trained_without(images, tmp_path):
    config = partial(tiny_config, images, tmp_path / "gen", warmup=0)
    with pytest.raises(UserError, match="at step 1 of dit: start dit again with a lower --lr"):
        train_generator(config(lr=1e30, clip_grad=None))
    autoencoder = (tmp_path / "gen/vae/diffusion_pytorch_model.safetensors").read_bytes()
    for _ in range(2):  # the second time all is done
        mended = train_generator(config(lr=1e-3, clip_grad=0.5))
        assert parts_of(mended)["dit"]["settings"]["clip_grad"] == 0.5
        assert parts_of(mended)["vae"]["settings"]["clip_grad"] == 1.0
        assert (mended / "vae/diffusion_pytorch_model.safetensors").read_bytes() == autoencoder
    with pytest.raises(UserError, match=r"clip_grad must be 1\.0 to go on with the training of vae"):
        train_generator(config(part="vae", vae_steps=9, clip_grad=0.5))


@pytest.mark.parametrize("part", ["vae", "dit"])
def test_a_last_step_that_goes_too_far_binds_nothing(images, tmp_path, part):
    lr, steps = ("vae_lr", "vae_steps") if part == "vae" else ("lr", "steps")
    config = partial(tiny_config, images, tmp_path / "gen", **{steps: 1}, clip_grad=None, warmup=0)
    for _ in range(2):
        with pytest.raises(UserError, match=f"at step 1 of {part}: start"):
            train_generator(config(**{lr: 1e30}))
    assert parts_of(train_generator(config(**{lr: 1e-3})))[part]["settings"][lr] == 1e-3


def test_an_estimate_comes_first_and_changes_nothing(images, begun, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_WORTH_SAYING", 1)
    config = tiny_config(images, tmp_path / "gen", schedule="constant")
    said = told(config)
    line = next(line for line in said.splitlines() if line.startswith("about"))
    assert " s for the autoencoder and " in line
    assert " s for the DiT on cpu, " in line
    assert line.endswith(" GiB"), "nothing is judged here"
    assert said.index("about") < said.index("train vae")
    assert equal(dit_of(tmp_path / "gen"), dit_of(begun))
    again = told(config)
    assert "about" not in again  # nothing is left to do


def test_steps_done_are_read_without_the_tensors(begun, tmp_path):
    assert steps_done(begun / "checkpoints/dit.pt") == load_checkpoint(begun / "checkpoints/dit.pt")["step"]
    assert steps_done(tmp_path / "none.pt") == 0


def test_time_left_counts_both_parts(images, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_WORTH_SAYING", 1)
    monkeypatch.setattr(estimate, "_step_s", lambda run, network, loss: 1000.0)
    monkeypatch.setattr(fitting, "_NOTE_PERIOD_S", 0.0)
    said = told(tiny_config(images, tmp_path / "gen"))
    assert "about 67 min for the autoencoder and 117 min for the DiT on cpu" in said
    vae, dit = (
        [line for line in said.splitlines() if line.startswith(f"{part} step")] for part in ("vae", "dit")
    )
    assert all(line.endswith("117 min left of both parts") for line in vae)
    assert dit[-1].endswith("0 s left")


def test_half_a_generator_names_the_command_that_trains_the_other_half(images, tmp_path, capsys):
    out = tmp_path / "half done"
    config = tiny_config(images, out)
    options = [
        "--judge",
        "off",
        "--resolution",
        "16",
        "--vae-channels",
        "4,8",
        "--cache-dir",
        str(config.cache_dir),
    ]
    options += ["--on-bad-image", "skip", "--split", "fit"]
    train_it = ["train", "--dataset", str(images), "--out", str(out), *options, "--classes", "ant,bee"]
    assert main([*train_it, "--part", "vae", "--vae-steps", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    named = f"--dataset {images} --classes ant,bee --split fit --on-bad-image skip"
    asked = f"mgd3-fast train {named} --part dit --out '{out}'"
    assert last == f"next, the DiT on its latents: {asked}"
    assert (
        main(["distill", "--dataset", str(images), "--generator", str(out), "--ipc", "1", "--out", "x"]) == 2
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"has no network yet: `mgd3-fast train --dataset ... --part dit --out '{out}'` trains it" in error
    assert main([*train_it, "--part", "dit", "--hidden", "8", "--depth", "1", "--steps", "1"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith(f"use it with: mgd3-fast distill {named} --generator '{out}'")
    )
