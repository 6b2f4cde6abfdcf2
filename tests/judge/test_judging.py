"""From a generator folder to its verdict, and where the verdict is shown."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.config import DistillConfig
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.judge import JudgeConfig, judge_generator
from mgd3_fast.progress import Progress
from mgd3_fast.report import ReportConfig, write_report
from mgd3_fast.run.distillation import distill
from tests.fakes.pictures import photo

pytestmark = pytest.mark.usefixtures("cache", "one_thread")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgd3_fast.judge.classifier.STEPS", 2)


@pytest.fixture
def folder(tiny_generator: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_generator, tmp_path / "tiny")


@pytest.fixture(scope="module")
def split_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, five training and three validation pictures each."""
    root = tmp_path_factory.mktemp("split") / "birds"
    for label, name in enumerate(("ant", "bee", "cow")):
        for split, numbers in (("train", range(5)), ("val", range(5, 8))):
            (root / split / name).mkdir(parents=True)
            for number in numbers:
                photo(10 * label + number).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture
def config(folder: Path, split_pictures: Path) -> Any:
    return partial(JudgeConfig, generator=str(folder), dataset=str(split_pictures), samples=9, device="cpu")


def test_the_verdict_is_the_same_again_and_kept_in_the_folder(
    config: Any, folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    quality = judge_generator(config(out=first))
    assert quality == judge_generator(config(out=second))
    assert json.loads((folder / "generator.json").read_text())["quality"] == json.loads(json.dumps(quality))
    assert quality["line"].startswith(f"{quality['verdict']}: ")
    assert {
        name: quality["settings"][name] for name in ("held_out", "seen_in_training", "classes", "samples")
    } == {
        "held_out": "val",
        "seen_in_training": False,
        "classes": 3,
        "samples": 9,
    }
    assert quality["measures"]["held_out"] == 9
    for name in ("samples.png", "reconstructions.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    generator = load_generator(str(folder))
    assert generator.judged == f"{quality['line']} (judged on birds, {quality['date']})"
    assert quality["generator_digest"] == generator.digest


def test_distill_and_report_show_it(config: Any, folder: Path, split_pictures: Path, tmp_path: Path) -> None:
    quality, said = judge_generator(config()), io.StringIO()
    settings = {"dataset": str(split_pictures), "generator": str(folder), "device": "cpu"}
    run = distill(DistillConfig(out=tmp_path / "run", ipc=2, **settings), Progress(stream=said))
    assert f"tiny: {quality['line'][:60]}" in said.getvalue()
    assert run.manifest is not None
    assert run.manifest["generator"]["quality"]["measures"] == quality["measures"]
    page = write_report(ReportConfig(folder=run.folder, dataset=str(split_pictures), map="off")).read_text()
    assert "<h2>Generator</h2>" in page
    assert f"Judged on birds, {quality['date']}" in page


def test_without_a_val_split_a_fifth_is_tested_on_and_it_is_said(config: Any, pictures: Path) -> None:
    said = io.StringIO()
    quality = judge_generator(config(dataset=str(pictures)), Progress(stream=said))
    assert quality["settings"]["seen_in_training"]
    assert "has no val split" in said.getvalue()
    fit = judge_generator(config(dataset=str(pictures), split="fit"))
    assert not fit["settings"]["seen_in_training"]
    assert fit["settings"]["held_out"] == quality["settings"]["held_out"] == "val of train"
    assert fit["measures"] == quality["measures"]  # what is tested on is not compared with itself


def test_a_small_class_leaves_the_others_their_samples(
    config: Any, split_pictures: Path, tmp_path: Path
) -> None:
    dataset = shutil.copytree(split_pictures, tmp_path / "birds")
    for number in range(1, 5):
        (dataset / f"train/ant/{number}.png").unlink()
    assert judge_generator(config(dataset=str(dataset)))["settings"]["samples"] == 1 + 3 + 3


def test_another_autoencoder_is_not_what_the_folder_keeps(config: Any, folder: Path) -> None:
    judge_generator(config(vae=str(folder / "vae")))
    assert "quality" not in json.loads((folder / "generator.json").read_text())


def test_an_interrupted_judgement_leaves_the_folder_as_it_was(
    config: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "generator.json").read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mgd3_fast.judge.judging.taught_accuracy", interrupted)
    with pytest.raises(Interrupted, match="there is no verdict yet; the same command begins it again"):
        judge_generator(config())
    assert (folder / "generator.json").read_bytes() == before


def test_what_cannot_be_judged_is_refused(config: Any, folder: Path) -> None:
    with pytest.raises(
        UserError, match="dataset must have at least 2 classes of training and held-out images"
    ):
        judge_generator(config(classes="ant"))
    description = json.loads((folder / "generator.json").read_text())
    (folder / "generator.json").write_text(json.dumps({**description, "quality": "fine"}))
    with pytest.raises(UserError, match=r"quality of .*generator\.json must be what `mgd3-fast judge` wrote"):
        load_generator(str(folder))
