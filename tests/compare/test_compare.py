"""Comparisons end to end: made, trained, stopped, gone on with, reported."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.cli import main
from mgd3_fast.compare import CompareConfig, compare_methods, comparing
from mgd3_fast.datasets import Framing
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.evaluate import evaluation
from mgd3_fast.progress import Progress
from tests.fakes.stripes import NAMES, write_images

pytestmark = pytest.mark.usefixtures("cache", "one_thread")
TRAINING = {"networks": ("convnet2w8-in",), "epochs": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of uneven size, with images to test on in val/; and train/ alone."""
    root = tmp_path_factory.mktemp("compare") / "stripes"
    for label, name in enumerate(NAMES):
        write_images(root / "train" / name, label, 5 + label, 1)
        write_images(root / "val" / name, label, 4 + 4 * label, 2)
    return root


@pytest.fixture
def config(dataset: Path, tiny_generator: Path, tmp_path: Path) -> Callable[..., CompareConfig]:
    def build(**changes: Any) -> CompareConfig:
        options = {"dataset": str(dataset), "generator": str(tiny_generator), "out": tmp_path / "out"}
        return CompareConfig(**{**options, "ipc": (2,), "repeats": 2, **TRAINING, **changes})

    return build


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are made and the trainings that are done, in their order."""
    done: list[str] = []
    distilled, trained = comparing.distill, evaluation.train_classifier

    def distill(config: Any, progress: Any) -> Any:
        made = distilled(config, progress)
        done.extend([Path(config.out).name] * bool(made.made))
        return made

    def train(job: Any, *rest: Any) -> Any:
        done.append(f"training {job.seed}")
        return trained(job, *rest)

    monkeypatch.setattr(comparing, "distill", distill)
    monkeypatch.setattr(evaluation, "train_classifier", train)
    return done


def test_every_method_is_made_at_one_size_and_judged(
    config: Callable[..., CompareConfig], tmp_path: Path, work: list[str]
) -> None:
    result = compare_methods(config(ipc=(1, 2)))
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == result
    assert (result["complete"], result["left_out"], result["side"]) == (True, [], 16)
    scored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {one["size"] for one in scored["recipes"]} == {16}
    assert result["dataset"]["majority"] == {"class": "cow", "accuracy": 50.0}
    rows = {row["folder"]: row for row in scored["rows"]}
    for table, ipc in zip(result["tables"], (1, 2), strict=True):
        methods = [row["method"] for row in table["rows"]]
        assert methods == ["mgd3", "unguided", "random", "herding", "kmeans-closest", "all-real"]
        of_method = dict(zip(methods, table["rows"], strict=True))
        base = of_method[table["baseline"]]
        assert base["difference"] is None
        for method, row in of_method.items():
            name = "all real images" if method == "all-real" else f"{method}-ipc{ipc}"
            assert row["accuracy"]["values"] == rows[name]["last"]["values"]
            assert row["balanced"]["values"] == rows[name]["last_balanced"]["values"]
            if row is not base:
                pairs = zip(row["accuracy"]["values"], base["accuracy"]["values"], strict=True)
                wanted = [ours - theirs for ours, theirs in pairs]
                assert row["difference"]["values"] == pytest.approx(wanted, abs=1e-3)
        assert "MGD3" in table["verdict"] or "majority rate" in table["verdict"]
    assert len([one for one in work if one.startswith("training")]) == 2 * (2 * 5 + 1) - 2 * len(
        {"herding-ipc1"}  # at one image a class the nearest to the mean twice: trained once
    )


def test_the_same_command_makes_and_trains_nothing_twice(
    config: Callable[..., CompareConfig], work: list[str]
) -> None:
    small = {"methods": ("mgd3", "random", "all-real")}
    first = compare_methods(config(repeats=1, **small))
    assert work == ["mgd3-ipc2", "random-ipc2", "training 0", "training 0", "training 0"]
    assert "one repeat" in first["tables"][0]["verdict"] or "majority" in first["tables"][0]["verdict"]
    work.clear()
    more = compare_methods(config(repeats=2, **small))
    assert work == ["training 1"] * 3
    assert more["tables"][0]["rows"][0]["seeds"] == [0, 1]
    work.clear()
    assert compare_methods(config(repeats=2, **small)) == more
    assert work == []


def test_a_small_budget_gives_up_repeats_and_methods_before_they_are_made(
    config: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch, work: list[str]
) -> None:
    """A step takes a minute: 10 of them for a training on 6 images; 18 images are 18 minutes a repeat."""
    monkeypatch.setattr("mgd3_fast.evaluate.timing.time_parts", lambda job: (60.0, 0.0))
    said = io.StringIO()
    settings = {"epochs": 10, "repeats": 3, "budget": "82m"}
    result = compare_methods(config(**settings), Progress(stream=said))
    methods = [row["method"] for row in result["tables"][0]["rows"]]
    assert methods == ["mgd3", "unguided", "random", "kmeans-closest"]
    assert "herding-ipc2" not in work
    assert [row["seeds"] for row in result["tables"][0]["rows"]] == [[0, 1]] * 4
    assert result["left_out"] == [
        "herding is left out: its trainings would take about 30 min, and the budget is 82m",
        "all-real is left out: its trainings would take about 30 min, and the budget is 82m",
        "2 of 3 repeats fit into what is left of the budget of 82m: all would take about 2 h 0 min",
    ]
    assert all(line in said.getvalue() for line in result["left_out"])
    assert not result["complete"]


def test_a_spent_budget_keeps_what_is_done(
    config: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch, work: list[str]
) -> None:
    trained = evaluation.train_classifier

    def slow(job: Any, *rest: Any) -> Any:
        if len(work) == 3:
            limits[0].reached = True
            raise KeyboardInterrupt
        return trained(job, *rest)

    limits: list[Any] = []
    limit = comparing.TimeLimit
    monkeypatch.setattr(comparing, "TimeLimit", lambda s: limits.append(limit(s)) or limits[-1])
    monkeypatch.setattr(evaluation, "train_classifier", slow)
    few = config(methods=("mgd3", "random"), repeats=1)
    result = compare_methods(few)
    assert result["left_out"] == ["the budget of 1h is spent: the same command goes on"]
    assert [row["method"] for row in result["tables"][0]["rows"]] == ["mgd3"]
    assert "no training on chosen real images is finished" in result["tables"][0]["verdict"]
    monkeypatch.setattr(evaluation, "train_classifier", trained)
    assert compare_methods(few)["complete"]


def test_all_images_are_framed_alike(
    config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the generator's, or as the options say."""
    generator = comparing.load_generator
    padded = Framing((1, 2, 3), "pad")
    monkeypatch.setattr(
        comparing,
        "load_generator",
        lambda *given, **named: replace(generator(*given, **named), framing=padded),
    )
    few = {"methods": ("random", "all-real"), "repeats": 1}
    result = compare_methods(config(**few))
    assert (result["dataset"]["background"], result["dataset"]["fit"]) == ("1,2,3", "pad")
    manifest = json.loads((tmp_path / "out" / "random-ipc2" / "manifest.json").read_text())
    assert (manifest["settings"]["background"], manifest["settings"]["fit"]) == ("1,2,3", "pad")
    other = compare_methods(config(**few, background="black", fit="crop", out=tmp_path / "other"))
    assert (other["dataset"]["background"], other["dataset"]["fit"]) == ("0,0,0", "crop")


def test_ctrl_c_is_one(config: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "distill", interrupted)
    with pytest.raises(Interrupted, match=r"what is finished is kept in .*; the same command goes on"):
        compare_methods(config())


def test_without_a_test_split_images_are_held_out(
    config: Callable[..., CompareConfig], dataset: Path, tmp_path: Path
) -> None:
    said = io.StringIO()
    settings = {"dataset": str(dataset / "train"), "methods": ("random", "all-real"), "repeats": 1}
    result = compare_methods(config(**settings), Progress(stream=said))
    assert "tested on images held out of the training images, because" in said.getvalue()
    assert result["dataset"]["split"] == "val of train"
    manifest = json.loads((tmp_path / "out" / "random-ipc2" / "manifest.json").read_text())
    assert manifest["dataset"]["split"] == "fit"
    with pytest.raises(UserError, match="its folders are classes"):
        compare_methods(config(**settings, eval_split="test"))


def test_what_does_not_fit_is_said_before_anything_is_made(
    config: Callable[..., CompareConfig], dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="ipc must be at most 5"):
        compare_methods(config(ipc=(1, 6)))
    with pytest.raises(UserError, match="networks must be among"):
        compare_methods(config(networks=("resnet",)))
    with pytest.raises(UserError, match="ipc must name each but once, got 1,1"):
        config(ipc=(1, 1))
    with pytest.raises(UserError, match="methods must name each but once, got mgd3,random,mgd3"):
        config(methods=("mgd3", "random", "mgd3"))
    with pytest.raises(UserError, match="dataset must have at least 2 classes to tell apart, got 1"):
        compare_methods(config(classes=NAMES[0]))
    with pytest.raises(UserError, match="out must be new, empty or a folder of an earlier comparison"):
        compare_methods(config(out=dataset))
    assert not (tmp_path / "out").exists()


def test_a_budget_that_is_spent_at_once_is_said(
    dataset: Path, tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(dataset), "--ipc", "1", "--generator", str(tiny_generator), "--device", "cpu"]
    assert main([*words, "--budget", "0.001s", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "not done: the budget of 0.001s is spent: the same command goes on",
        "no training is finished yet",
    ]


def test_command_prints_tables_and_verdicts(
    dataset: Path, tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(dataset), "--ipc", "2", "--generator", str(tiny_generator), "--repeats", "2"]
    words += ["--methods", "mgd3,random", "--networks", "convnet2w8-in", "--epochs", "2", "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--budget", "5m"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("convnet2w8-in, images of 16 px, repeats are trainings on one set of images")
    assert lines[2].split()[:4] == ["2", "per", "class", "repeats"]
    assert "balanced" in lines[2]
    assert [line.split()[0] for line in lines[3:5]] == ["mgd3", "random"]
    assert "always answering cow scores 50.0%" in lines
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["verdict"] == lines[5]
    assert main([*words[:3], "1;10"]) == 2
    assert "ipc must be whole numbers separated by commas" in capsys.readouterr().err
