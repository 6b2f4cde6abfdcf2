"""What is trained on: sizes, whatever order folders come in, all real images, and counts of each class."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mgd3_fast.cli import main
from mgd3_fast.evaluate import EvaluateConfig, evaluate_folders
from mgd3_fast.evaluate.plan import Plan, make_plan
from mgd3_fast.evaluate.presets import find_preset
from mgd3_fast.evaluate.results import majority, sum_up
from mgd3_fast.evaluate.scores import Scores
from mgd3_fast.progress import Progress
from tests.fakes.stripes import write_images

CLASSES = ("ant", "bee")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two classes, one of them three times as large, and sets of 8 and of 80 px."""
    root = tmp_path_factory.mktemp("sizes")
    for label, name in enumerate(CLASSES):
        write_images(root / "data" / "train" / name, label, 4 + 2 * label, 1, side=12)
        write_images(root / "data" / "val" / name, label, 3 + 6 * label, 2, side=12)
        write_images(root / "small" / name, label, 2, 3, side=8)
        write_images(root / "large" / name, label, 2, 4, side=80)
    return root


@pytest.fixture
def planned(folders: Path, tmp_path: Path) -> Callable[..., tuple[Plan, str]]:
    """Plan an evaluation; also what is said."""

    def plan(*names: str, **changes: Any) -> tuple[Plan, str]:
        said = io.StringIO()
        options = {"dataset": str(folders / "data"), "device": "cpu", "out": tmp_path / "out"}
        options |= {"networks": ("convnet2w8-in",), **changes}
        config = EvaluateConfig(folders=tuple(folders / name for name in names), **options)
        return make_plan(config, Progress(stream=said)), said.getvalue()

    return plan


def test_order_of_folders_does_not_matter(planned: Callable[..., tuple[Plan, str]]) -> None:
    (plan, said), (other, _) = planned("small", "large"), planned("large", "small")
    assert plan.preset == other.preset == "small"
    for pair, job in plan.jobs.items():
        assert job.recipe == other.jobs[pair].recipe
        assert job.recipe.size == 8
        assert job.train.digest == other.jobs[pair].train.digest
    line = (
        "images are of different sizes (large 80 px, small 8 px): networks see all of them at 8 px (--size)"
    )
    assert said.splitlines().count(line) == 1
    plan, said = planned("large", "small", size=16)
    assert {job.recipe.size for job in plan.jobs.values()} == {16}
    assert "networks see all of them at 16 px" in said


@pytest.mark.parametrize(("fit", "size"), [("crop", 10), ("pad", 16)])
def test_size_of_pictures_that_are_not_square_is_that_of_their_frame(
    planned: Callable[..., tuple[Plan, str]], folders: Path, fit: str, size: int
) -> None:
    for name in CLASSES:
        (folders / "wide" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 10)).save(folders / "wide" / name / "0.png")
    plan, _ = planned("wide", fit=fit)
    assert plan.first.recipe.size == size


def test_images_of_an_own_dataset_are_not_enlarged(planned: Callable[..., tuple[Plan, str]]) -> None:
    plan, said = planned("large", epochs=1)
    assert (plan.preset, plan.first.recipe.size) == ("imagenet", 80)
    assert "different sizes" not in said
    assert find_preset("auto", "imagenette", 80, True).rows["hard"].size == 224
    assert find_preset("imagenet", "own", 80, False).rows["hard"].size == 224


def test_all_real_images_are_a_set_of_their_own(planned: Callable[..., tuple[Plan, str]]) -> None:
    plan, said = planned("small", all_real="on")
    real = plan.jobs["convnet2w8-in", "all real images"]
    assert torch.bincount(real.train.labels).tolist() == [4, 6]
    assert (plan.sets["all real images"].ipc, real.recipe.size) == (5, 8)
    assert "different sizes" not in said
    held_out, _ = planned("small", all_real="on", eval_split="val")
    counts = torch.bincount(held_out.jobs["convnet2w8-in", "all real images"].train.labels)
    assert (counts + torch.tensor(list(held_out.dataset.counts.values()))).tolist() == [4, 6]


def test_estimate_and_time_left_are_of_all_networks(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the second network takes nine times as long as one of the first; so do its epochs."""
    seconds = {"convnet1w8-in": 1.0, "convnet2w8-in": 9.0}
    monkeypatch.setattr("mgd3_fast.evaluate.timing.time_parts", lambda job: (seconds[job.network], 0.5))
    costs: list[list[float]] = []

    class Watching(Progress):
        def stage(self, name: str, **options: Any) -> Any:
            if name == "evaluate":
                costs.append(options["costs"])
            return super().stage(name, **options)

    said = io.StringIO()
    options = {"networks": tuple(seconds), "epochs": 2, "tests": 1, "device": "cpu", "batch_size": 2}
    config = {"folders": (folders / "small",), "dataset": str(folders / "data"), "out": tmp_path} | options
    evaluate_folders(EvaluateConfig(**config, repeats=1), Watching(stream=said))
    # 2 epochs of 2 steps and one test of 12 images: 10 s and 42 s.
    assert "about 52 s: 2 trainings to do" in said.getvalue()
    assert costs == [[5.0, 5.0, 21.0, 21.0]]
    evaluate_folders(EvaluateConfig(**config, repeats=3), Watching(stream=said))
    assert "about 104 s: 4 of 6 trainings to do" in said.getvalue()
    assert len(costs[1]) == 12


def test_uneven_test_images_are_said_and_balanced(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(folders / "small"), "--dataset", str(folders / "data"), "--out", str(tmp_path)]
    words += ["--networks", "convnet2w8-in", "--epochs", "1", "--repeats", "1", "--quiet"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["dataset"]["images_by_class"] == {"ant": 3, "bee": 9}
    assert result["dataset"]["majority"] == {"class": "bee", "accuracy": 75.0}
    (row,) = result["rows"]
    ant, bee = row["by_class"]["last"]
    assert row["last"]["mean"] == pytest.approx((3 * ant + 9 * bee) / 12, abs=1e-3)
    assert row["last_balanced"]["mean"] == pytest.approx((ant + bee) / 2, abs=1e-3)
    assert main(words[:-1]) == 0
    printed = capsys.readouterr().out
    assert "balanced: best" in printed
    assert "always answering bee, the largest class, scores 75.0%" in printed


def test_counts_are_of_the_best_and_the_last_test() -> None:
    scores = Scores(torch.tensor([0, 0, 1, 1, 1]), 3, torch.device("cpu"))
    for epoch, predicted in enumerate(([0, 1, 1, 1, 0], [0, 0, 1, 1, 2], [1, 1, 1, 1, 1]), 1):
        scores.add_test(epoch, torch.tensor(predicted))
    outcome = scores.outcome()
    assert (outcome["best"], outcome["best_epoch"], outcome["last"]) == (80.0, 2, 60.0)
    assert outcome["by_class"] == {
        "images": [2, 3, 0],
        "best": {"correct": [2, 2, 0], "predicted": [2, 2, 1]},
        "last": {"correct": [0, 3, 0], "predicted": [0, 5, 0]},
    }
    again = Scores(torch.tensor([0, 0, 1, 1, 1]), 3, torch.device("cpu"))
    again.load_state_dict(scores.state_dict())
    assert again.outcome() | {"loss": 0} == outcome | {"loss": 0}


def test_rows_of_earlier_trainings_have_no_balanced_accuracy() -> None:
    counted = {"images": [1, 3, 0], "last": {"correct": [1, 0, 0], "predicted": [4, 0, 0]}}
    counted["best"] = counted["last"]
    outcome = {"best": 25.0, "last": 25.0, "parameters": 1, "wall_s": 1.0, "cpu_s": 1.0}
    row = sum_up("net", "a", 1, {0: {**outcome, "by_class": counted}})
    assert (row["last_balanced"]["mean"], row["by_class"]["last"]) == (50.0, [100.0, 0.0, None])
    assert "last_balanced" not in sum_up("net", "a", 1, {0: {**outcome, "by_class": counted}, 1: outcome})
    assert majority({"a": 1, "b": 3, "c": 0}) == {"class": "b", "accuracy": 75.0}
