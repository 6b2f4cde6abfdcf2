"""A tuning of a tiny generator: resumed, it does nothing twice; what it chooses, `distill` takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.cli import main
from mgd3_fast.cli.tune import run as tune_command
from mgd3_fast.config import DistillConfig
from mgd3_fast.config.tune import TuneConfig
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.evaluate import evaluation
from mgd3_fast.generators import load_generator
from mgd3_fast.generators.folder import DESCRIPTION
from mgd3_fast.progress import SILENT
from mgd3_fast.run.distillation import distill
from mgd3_fast.tune import halving, trials, tuning
from mgd3_fast.tune.tuning import RESULT, tune_generator
from tests.fakes.pictures import photo

pytestmark = pytest.mark.usefixtures("cache", "one_thread")


@pytest.fixture
def generator(tiny_generator: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_generator, tmp_path / "generator"))


@pytest.fixture
def asked(generator: Path, pictures: Path, tmp_path: Path):
    def make(**changes: Any) -> TuneConfig:
        settings = {"dataset": str(pictures), "generator": str(generator), "ipc": 2, "epochs": 2}
        return TuneConfig(**{**settings, "out": tmp_path / "out", "budget": "300h", **changes})

    return make


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four candidates and two seeds are enough here."""
    whole = tuning.candidates
    monkeypatch.setattr(tuning, "candidates", lambda defaults: whole(defaults)[:4])
    monkeypatch.setattr(halving, "MOST_SEEDS", 2)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Stands in for images and classifiers: the stronger the guidance, the better, by 10 points a unit."""
    asked_for: list[tuple[str, int, int]] = []

    def score(self, candidate, seed, epochs):
        asked_for.append((candidate.name, seed, epochs))
        return 50.0 + seed + 10 * candidate.mode_scale + 0.01 * (len(asked_for) % 2)

    monkeypatch.setattr(trials.Trials, "score", score)
    return asked_for


def test_classes_that_the_generator_does_not_know_are_told_at_once(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "discover", lambda *_, **__: pytest.fail("encoded"))
    for number in range(10):
        path = tmp_path / "photos" / ("owl", "rat")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(path)
    with pytest.raises(
        UserError, match=r"dataset must have 3 classes, got 2 .*owl, rat.*: generator tiny has 3"
    ):
        tune_generator(asked(dataset=str(tmp_path / "photos")))


@pytest.mark.usefixtures("four")
def test_a_stopped_tuning_goes_on_and_does_nothing_twice(asked, monkeypatch, generator):
    done: dict[str, list[Any]] = {"distill": [], "train": []}

    def counting(name, function, left):
        def call(config, *rest):
            result = function(config, *rest)
            made = getattr(result, "made", None)
            if made is None or made:
                done[name].append((config.out, getattr(config, "seed", None)))
            if len(done[name]) == left:
                raise KeyboardInterrupt
            return result

        return call

    real = trials.distill
    monkeypatch.setattr(trials, "distill", counting("distill", real, 3))
    with pytest.raises(Interrupted, match="the same command goes on from here"):
        tune_generator(asked(dry_run=True))
    monkeypatch.setattr(trials, "distill", counting("distill", real, 0))
    trained, train = [], evaluation.train_classifier

    def noted(job, *rest):
        trained.append((job.train.digest, job.seed, job.recipe.epochs))
        return train(job, *rest)

    monkeypatch.setattr(evaluation, "train_classifier", noted)
    result = tune_generator(asked(dry_run=True))
    assert len(set(done["distill"])) == len(done["distill"])
    assert len(set(trained)) == len(trained) > 0
    again = len(trained)
    assert tune_generator(asked(dry_run=True))["candidates"] == result["candidates"]
    assert len(trained) == again
    assert load_generator(str(generator)).defaults.mode_scale == 0.1, "a dry run leaves the folder alone"
    unknown = [row["name"] for row in result["candidates"] if row["mode_recovery"] is None]
    assert len(unknown) <= 1, "of the set that was stopped before it was noted"


@pytest.mark.usefixtures("scores")
def test_what_is_chosen_is_written_and_distill_takes_it(asked, generator, pictures, tmp_path):
    before = json.loads((generator / DESCRIPTION).read_text())
    result, text = tune_command(asked(), SILENT)
    described = json.loads((generator / DESCRIPTION).read_text())
    assert result["defaults"]["mode_scale"] == 0.3
    assert "chosen: scale-0.3" in text
    assert "points above scale-0.1" in text
    assert described["defaults"] == result["defaults"]
    assert described["tuning"]["candidates"] == result["candidates"]
    assert load_generator(str(generator)).digests.items() <= described["tuning"].items()
    assert {key: described[key] for key in before if key != "defaults"} == {
        key: before[key] for key in before if key != "defaults"
    }
    made = distill(
        DistillConfig(dataset=str(pictures), generator=str(generator), ipc=1, out=tmp_path / "distilled")
    )
    assert made.manifest["settings"]["mode_scale"] == 0.3
    repeated = tune_generator(asked())
    assert repeated["present"] == result["present"], "the defaults that the tuning began with"


def test_without_a_proven_gain_the_present_defaults_stay(asked, generator, monkeypatch):
    seen = iter(range(10_000))
    monkeypatch.setattr(trials.Trials, "score", lambda self, *of: 50.0 + next(seen) * 7 % 5)
    result, text = tune_command(asked(), SILENT)
    assert result["chosen"] == result["present"]
    assert "the present settings stay" in text
    assert f"the settings of {generator} are unchanged; the table is written into it" in text
    assert load_generator(str(generator)).defaults.mode_scale == 0.1


def test_pairs_share_their_seeds_and_rounds_are_halved(asked, scores):
    result = tune_generator(asked(seed=3))
    last = [one for one in scores if one[0] == result["chosen"]][-5:]
    assert [seed for _, seed, _ in last] == [3, 4, 5, 6, 7] == result["seeds"]
    assert [seed for name, seed, _ in scores if name == result["present"]][-5:] == result["seeds"]
    counts = [len(one["accuracy"]) for one in result["rounds"]]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(result["candidates"])


@pytest.mark.usefixtures("scores")
def test_a_spent_budget_ends_the_rounds(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "fitting", lambda *of: halving.halving(4, 4, 2))
    time_s = iter(range(0, 10**6, 100))  # modes and the timed set take 100 s each
    for rounds, budget in ((1, "150s"), (2, "1000s")):
        config = asked(budget=budget, out=tmp_path / budget)
        assert len(tune_generator(config, clock=lambda: float(next(time_s)))["rounds"]) == rounds


def test_a_candidate_that_diverges_drops_out(asked, monkeypatch, four):
    real = trials.distill

    def diverging(config, *rest):
        if config.mode_scale == 0.2:
            raise ValueError("image 0 came out as NaN")
        return real(config, *rest)

    monkeypatch.setattr(trials, "distill", diverging)
    result = tune_generator(asked(epochs=1, dry_run=True))
    failed = [row for row in result["candidates"] if row["failed"]]
    assert [row["mode_scale"] for row in failed] == [0.2]
    assert failed[0]["accuracy"] is None


@pytest.mark.usefixtures("scores")
def test_the_shipped_generator_is_never_amended(asked):
    folder = Path(tuning.__file__).parents[1] / "generators/demo_mnist5k"
    before = (folder / DESCRIPTION).read_bytes()
    assert not tuning._is_own(asked(generator=str(folder)))
    assert not tuning._is_own(asked(generator="demo-mnist5k"))
    assert (folder / DESCRIPTION).read_bytes() == before


@pytest.mark.usefixtures("scores")
def test_a_folder_holds_one_tuning(asked, tmp_path):
    tune_generator(asked(dry_run=True))
    assert (tmp_path / "out" / RESULT).is_file()
    with pytest.raises(UserError, match=r"holds a tuning with another --ipc \(2, not 1\): choose another"):
        tune_generator(asked(ipc=1))


@pytest.mark.usefixtures("scores")
def test_a_command_that_came_to_no_plan_may_be_mended(asked, tmp_path):
    with pytest.raises(UserError, match="budget"):
        tune_generator(asked(dry_run=True, ipc=1, budget="1s"))
    assert (tmp_path / "out" / "journal.json").is_file()
    assert tune_generator(asked(dry_run=True))["ipc"] == 2


def test_a_folder_of_something_else_is_refused(asked, pictures):
    before = sorted(pictures.rglob("*"))
    with pytest.raises(UserError, match="out must be new, empty or a folder of an earlier tuning"):
        tune_generator(asked(out=pictures))
    assert sorted(pictures.rglob("*")) == before


def test_a_journal_of_something_else_is_refused(asked, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.json").write_text("{}")
    with pytest.raises(UserError, match=r"journal\.json must be the journal of a tuning"):
        tune_generator(asked())


def test_all_seeds_of_a_tuning_are_seeds(asked):
    with pytest.raises(UserError, match="seed must be a whole number from 0 to 4294967291"):
        asked(seed=2**32 - 1)


def test_a_mistake_at_the_beginning_is_told_and_makes_no_folder(asked, tmp_path):
    with pytest.raises(UserError, match="dataset must be one of"):
        tune_generator(asked(dataset="nowhere"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("budget", ["soon", "0s"])
def test_a_wrong_budget_is_one_line(capsys, budget):
    assert main(["tune", "demo-mnist5k", "--dataset", "mnist5k", "--ipc", "1", "--budget", budget]) == 2
    assert f"budget must be a time such as 45s, 90m or 1h30m, got {budget!r}" in capsys.readouterr().err
