"""What is looked at beside a training, and changes nothing: held-out losses, sheets, the verdict."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mgd3_fast.datasets import Framing, open_dataset
from mgd3_fast.errors import UserError
from mgd3_fast.generators import amend_description
from mgd3_fast.generators.folder import load_generator_folder
from mgd3_fast.progress import Progress
from mgd3_fast.train import TrainConfig, train_generator
from mgd3_fast.train.held_out import HeldOutLoss, best_before_rise, open_held_out_images
from tests.fakes.pictures import photo
from tests.fakes.tiny_training import tiny_config
from tests.train.test_train import StoppingProgress, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("ant", "bee", "cow")


def write_split(root: Path, split: str, numbers: range) -> None:
    for label, name in enumerate(NAMES):
        (root / split / name).mkdir(parents=True)
        for number in numbers:
            photo(100 * label + number, 20, 16).save(root / split / name / f"{number}.png")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six training pictures, without others."""
    root = tmp_path_factory.mktemp("whole") / "tiny"
    write_split(root, "train", range(6))
    return root


@pytest.fixture(scope="module")
def with_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four validation pictures a class."""
    root = tmp_path_factory.mktemp("split") / "tiny"
    write_split(root, "train", range(6))
    write_split(root, "val", range(6, 10))
    return root


@pytest.fixture(scope="module")
def watched(with_val: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run that looks at everything, not to be changed."""
    config = tiny_config(with_val, tmp_path_factory.mktemp("watched") / "gen", sample_sheets=3)
    train_generator(config)
    return config


def parts_of(config: TrainConfig) -> dict[str, dict[str, object]]:
    parts: dict[str, dict[str, object]] = json.loads((Path(config.out) / "training.json").read_text())[
        "parts"
    ]
    return parts


def test_looking_at_a_training_does_not_change_its_weights(
    watched: TrainConfig, whole: Path, tmp_path: Path
) -> None:
    blind = tiny_config(whole, tmp_path / "gen")
    assert weights_of(train_generator(blind)) == weights_of(Path(watched.out))
    for part, steps in (("vae", 4), ("dit", 7)):
        assert parts_of(blind)[part]["held_out"] == []
        measured = parts_of(watched)[part]["held_out"]
        assert isinstance(measured, list)
        assert measured[-1]["step"] == steps
        assert parts_of(blind)[part]["curve"] == parts_of(watched)[part]["curve"]


def test_pictures_are_drawn_and_are_the_same_again(
    watched: TrainConfig, with_val: Path, tmp_path: Path
) -> None:
    out = train_generator(tiny_config(with_val, tmp_path / "gen", sample_sheets=3))
    sheets = sorted(path.name for path in (out / "samples").iterdir())
    assert sheets == ["7.png"]  # as few as a run so short can pay for
    for name in ("reconstructions.png", "samples/7.png"):
        assert (out / name).read_bytes() == (Path(watched.out) / name).read_bytes()


@pytest.mark.parametrize(("stage", "after"), [("train vae", 2), ("train dit", 5)])
def test_a_stopped_run_has_measured_what_an_unstopped_one_has(
    watched: TrainConfig, with_val: Path, tmp_path: Path, stage: str, after: int
) -> None:
    config = tiny_config(with_val, tmp_path / "gen")
    with pytest.raises(RuntimeError, match="killed"):
        train_generator(config, StoppingProgress(stage, after))
    train_generator(config)
    for part in ("vae", "dit"):
        assert parts_of(config)[part]["held_out"] == parts_of(watched)[part]["held_out"]


def test_the_loss_is_said(with_val: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    train_generator(tiny_config(with_val, tmp_path / "gen", part="vae"), Progress(stream=said))
    assert "held out 0." in said.getvalue()
    assert "12 held-out images come out of the autoencoder at" in said.getvalue()


def test_fit_is_trained_without_what_it_is_measured_on(whole: Path, tmp_path: Path) -> None:
    config = tiny_config(whole, tmp_path / "gen", part="vae", split="fit")
    train_generator(config)
    held_out = open_held_out_images(config, open_dataset(str(whole)))
    assert held_out is not None
    assert held_out.counts == dict.fromkeys(NAMES, 1)
    assert parts_of(config)["vae"]["held_out"]
    with pytest.raises(UserError, match="split must be 'fit' to go on with the training of vae"):
        train_generator(replace(config, split="train"))


def test_at_most_256_images_of_the_trained_classes_are_held_out(with_val: Path, monkeypatch) -> None:
    monkeypatch.setattr("mgd3_fast.train.held_out.MOST_IMAGES", 6)
    config = tiny_config(with_val, Path("unused"))
    framing = Framing(background=(0, 0, 0))
    dataset = replace(open_dataset(str(with_val)), framing=framing)
    three, two = (open_held_out_images(config, opened) for opened in (dataset, dataset.subset("ant,bee")))
    assert three is not None
    assert two is not None
    assert three.counts == dict.fromkeys(NAMES, 2)
    assert two.counts == dict.fromkeys(NAMES[:2], 3)
    assert three.framing == framing


def test_train_judges_once(with_val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgd3_fast.judge.classifier.STEPS", 2)
    said, config = io.StringIO(), tiny_config(with_val, tmp_path / "gen", judge="on", steps=2)
    folder = train_generator(config, Progress(stream=said))
    quality = json.loads((folder / "generator.json").read_text())["quality"]
    assert f"gen is {quality['line'][:50]}" in said.getvalue()
    monkeypatch.setattr("mgd3_fast.train.training.judge_generator", None)
    again = train_generator(replace(config, name="renamed"))
    assert json.loads((again / "generator.json").read_text())["quality"] == quality
    train_generator(replace(config, cfg_scale=3.0, judge="off"))
    assert "quality" not in json.loads((again / "generator.json").read_text())  # it was sampled at another


def test_what_was_tuned_stays_with_its_weights(with_val: Path, tmp_path: Path) -> None:
    config = tiny_config(with_val, tmp_path / "gen", steps=2)
    described = train_generator(config) / "generator.json"
    untuned = json.loads(described.read_text())["defaults"]
    defaults = {**untuned, "mode_scale": 0.7, "t_stop": 10}
    tuning = {"defaults": defaults, **load_generator_folder(config.out).digests}
    amend_description(config.out, tuning=tuning, defaults=defaults)
    for again in (config, replace(config, mode_scale=0.7)):
        train_generator(again)
        kept = json.loads(described.read_text())
        assert (kept["tuning"], kept["defaults"]) == (tuning, defaults)

    train_generator(replace(config, mode_scale=0.2))
    other = json.loads(described.read_text())
    assert "tuning" not in other
    assert other["defaults"] == {**untuned, "mode_scale": 0.2}

    amend_description(config.out, tuning=tuning, defaults=defaults)
    train_generator(replace(config, steps=4))
    assert "tuning" not in json.loads(described.read_text()), "it was of other weights"


def test_a_finished_generator_is_sampled_as_before_unless_told_otherwise(
    with_val: Path, tmp_path: Path
) -> None:
    config = tiny_config(with_val, tmp_path / "gen", steps=2)
    described = train_generator(config) / "generator.json"
    of_old = {**json.loads(described.read_text())["defaults"], "cfg_scale": 4.5, "t_stop": 20}
    amend_description(config.out, defaults=of_old)  # as an earlier version, with another table, left it
    train_generator(config)
    assert json.loads(described.read_text())["defaults"] == of_old
    train_generator(replace(config, t_stop=10))
    assert json.loads(described.read_text())["defaults"] == {**of_old, "t_stop": 10}


def test_what_cannot_be_judged_is_trained_all_the_same(with_val: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    folder = train_generator(
        tiny_config(with_val, tmp_path / "gen", judge="on", classes="ant"), Progress(stream=said)
    )
    assert "not judged: dataset must have at least 2 classes" in said.getvalue()
    assert (folder / "generator.json").is_file()


def test_the_mean_is_that_of_the_batches_and_the_network_goes_on_training() -> None:
    network = nn.Dropout(0.5)
    seen: list[bool] = []

    def batch_loss(model: nn.Module, batch: int) -> dict[str, torch.Tensor]:
        seen.append(model.training)
        return {"loss": torch.tensor(float(batch))}

    loss = HeldOutLoss(batch_loss, 3, 100)
    assert loss(network) == 1.0
    assert seen == [False] * 3
    assert network.training
    assert loss.period(8000, 128) == 400
    assert loss.period(100, 32) == 53  # 100 images cost a fiftieth of 53 steps of 32


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([], None),
        ([9, 8, 7, 6, 5, 4], None),
        ([9, 5, 6, 6, 6], None),
        ([9, 5, 6, 6, 6, 6], 200),
        ([9, 5, 6, 6, 6, 5.05], None),  # back again
        ([9, 5, 5.05, 5.05, 5.05, 5.05], None),
        ([9, 8, 7, 7, 7, 6, 6, 6, 5, 6, 6, 6, 6], None),  # not yet for a third of the steps
        ([9, 8, 7, 7, 7, 6, 6, 6, 5, 6, 6, 6, 6, 6], 900),
        ([-1, -2, -1, -1, -1, -1], 200),
    ],
)
def test_a_long_rise_names_the_lowest_point(losses: list[float], best: int | None) -> None:
    points = [{"step": 100 * (place + 1), "loss": loss} for place, loss in enumerate(losses)]
    found = best_before_rise(points)
    assert (None if found is None else found["step"]) == best
