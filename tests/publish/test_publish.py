"""`mgd3-fast publish`: what it writes, what the hub then holds, what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, constants

from mgd3_fast.cli import main
from mgd3_fast.config.publish import PublishConfig
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.progress import Bar, Progress
from mgd3_fast.publish import publish_run
from mgd3_fast.writers.reader import read_run
from tests.fakes.distilled_runs import WOOF, woof_run
from tests.fakes.hub_server import HubServer, running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return woof_run(tmp_path_factory.mktemp("woof"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run with nothing beside it."""
    return Path(shutil.copytree(made, tmp_path / "woof-2"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_TOKEN", "owner-token")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with running(HubServer()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


def dry(run: Path, **changes: Any) -> Path:
    return publish_run(PublishConfig(folder=run, repo="me/woof", dry_run=True, **changes)).folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write_results(folder: Path, run: Path, **changes: Any) -> None:
    """What evaluate and metrics write, as far as a card shows it."""
    manifest = json.loads((run / "manifest.json").read_text())
    spread = {"mean": 61.25, "std": 1.5, "values": [59.75, 62.75], "ci95": None}
    row = {"network": "resnet18", "folder": "two", "ipc": 2, "seeds": [0, 1], "best": spread, "last": spread}
    evaluation = {
        "format": "mgd3-fast evaluation",
        "protocol": "hard",
        "preset": "imagenet",
        "dataset": {"name": "imagewoof", "split": "val", "images": 3929, "majority": {"accuracy": 10.6}},
        "rows": [row, {**row, "network": "of another run", "folder": "other"}],
        "folders": {"two": {"settings": manifest["settings"]}, "other": {"settings": {}}},
    }
    measured = {
        "settings": {"features": "latents", "dataset_fingerprint": manifest["dataset"]["fingerprint"]},
        "folders": [{"name": run.name, "mean": {"coverage": 0.4321, "density": None}, "frechet": 12.5}],
    }
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps({**evaluation, **changes}))
    (folder / "metrics.json").write_text(json.dumps(measured))


# what it writes


def test_the_folder_opens_as_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    out = dry(run)
    assert out == tmp_path / "woof-2-hub"
    opened = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert opened.features["label"].names == list(WOOF)
    images = read_run(run, "folder").images
    assert [row["label"] for row in opened] == [image.label for image in images]
    raw = opened.cast_column("image", datasets.Image(decode=False))
    assert [row["image"]["bytes"] for row in raw] == [image.content() for image in images]
    assert opened[0]["image"].size == images[0].load().size
    for name in ("manifest.json", "modes.safetensors", "contact_sheet.png"):
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_the_card_says_first_what_binds(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["generator"]["licence"] = "CC-BY-NC-4.0"
    (run / "manifest.json").write_text(json.dumps(manifest))
    card = DatasetCard.load(dry(run) / "README.md")
    assert card.data.license == "other"  # ImageNet's terms are no licence that the hub knows
    assert card.data.task_categories == ["image-classification"]
    assert card.data.source_datasets == ["extended|imagenet-1k"]
    title, binding, *licences = card.text.strip().splitlines()[:7:2]
    assert title == "# imagewoof, distilled to 2 images of each class"
    assert binding == "**Licences that bind these images:**"
    assert "CC-BY-NC-4.0" in licences[0]
    assert "ImageNet's terms of access" in card.text
    assert "- so there is no commercial use of this dataset" in card.text
    assert 'load_dataset("me/woof", split="train")' in card.text
    assert "chansantiago2025mgd3" in card.text
    assert "## Figures" not in card.text


def test_licences_that_the_hub_knows_are_named_to_it(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["generator"]["licence"] = "MIT"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert DatasetCard.load(dry(run, source_licence="CC-BY-4.0") / "README.md").data.license == [
        "cc-by-4.0",
        "mit",
    ]
    assert DatasetCard.load(dry(run, source_licence="MIT") / "README.md").data.license == "mit"


def test_figures_of_this_run_that_lie_beside_it_are_shown(run: Path, tmp_path: Path) -> None:
    write_results(tmp_path / "evaluation", run)
    text = (dry(run) / "README.md").read_text()
    assert "| resnet18 | 2 | 2 | 61.2 (1.5) | 61.2 (1.5) |" in text
    assert "| coverage | 0.4321 |" in text
    assert "| frechet distance | 12.5 |" in text
    assert "of another run" not in text
    assert "density" not in text
    (tmp_path / "metrics.json").write_text('{"loss": 0.1}')  # of another program
    assert (dry(run) / "README.md").read_text() == text


def test_a_comparison_that_the_run_is_part_of_is_shown(run: Path, tmp_path: Path) -> None:
    row = {"method": "mgd3", "folder": run.name, "seeds": [0], "accuracy": {"mean": 70.0, "std": 0.0}}
    other = {**row, "method": "random", "folder": "random-ipc2", "accuracy": {"mean": 65.5, "std": 0.0}}
    verdict = "MGD3 beats random real images by 4.5"
    tables = [
        {"ipc": 2, "rows": [row, other], "verdict": verdict},
        {"ipc": 5, "rows": [other], "verdict": "no"},
    ]
    (tmp_path / "compare.json").write_text(json.dumps({"format": "mgd3-fast comparison", "tables": tables}))
    text = (dry(run) / "README.md").read_text()
    assert f"Beside other ways to 2 images of each class: {verdict}." in text
    assert "| random | 1 | 65.5 (0.0) |" in text
    assert "5 images of each class" not in text


def test_real_images_owe_nothing_to_weights(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["generator"] = {"name": None, "licence": None}
    del manifest["files"]["modes.safetensors"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(run)
    card = DatasetCard.load(dry(Path(), source_licence="CC0-1.0") / "README.md")
    assert run.with_name("woof-2-hub").is_dir()
    assert card.data.license == "cc0-1.0"
    assert "weights" not in card.text
    assert "modes.safetensors" not in card.text
    assert "Citation" not in card.text


def test_a_judged_generators_verdict_is_shown_once(run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    quality = {"dataset": "imagewoof", "line": "usable: samples teach 61%"}
    manifest["generator"]["quality"] = quality
    (run / "manifest.json").write_text(json.dumps(manifest))
    judged = {**quality, "generator_digest": manifest["generator"]["digest"]}
    (tmp_path / "generator.json").write_text(json.dumps({"format": "a generator", "quality": judged}))
    text = (dry(run) / "README.md").read_text()
    assert text.count("The generator, judged by imagewoof: usable: samples teach 61%") == 1


def test_named_results_must_be_of_this_run(run: Path, tmp_path: Path) -> None:
    write_results(tmp_path / "results", run, folders={})
    with pytest.raises(UserError, match=r"results must be evaluation.json, .* of woof-2"):
        dry(run, results=(tmp_path / "results/evaluation.json",))
    (tmp_path / "results/evaluation.json").write_text('{"format": "mgd3-fast evaluation"}')
    with pytest.raises(UserError, match=r"results must be what evaluate, .* wrote, got .*evaluation.json"):
        dry(run, results=(tmp_path / "results",))


def test_new_figures_change_the_card_alone_and_an_edited_card_stays(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(out := dry(run))
    write_results(tmp_path, run)
    after = contents(dry(run))
    assert {name for name in after if after[name] != before[name]} == {"README.md"}
    (out / "README.md").write_text("my own words")
    assert main(["publish", str(run), "me/woof", "--dry-run"]) == 0
    assert (out / "README.md").read_text() == "my own words"
    assert "README.md was edited and stays as it is" in capsys.readouterr().err
    (out / "README.md").unlink()
    assert contents(dry(run)) == after


def test_another_conversion_is_not_written_over(run: Path, tmp_path: Path) -> None:
    assert main(["convert", str(run), str(tmp_path / "other"), "--format", "parquet", "--quiet"]) == 0
    with pytest.raises(UserError, match="out must be unused or hold what publish wrote"):
        dry(run, out=tmp_path / "other")


# what the hub then holds


def test_the_hub_holds_the_folder_byte_for_byte(run: Path, hub: HubServer) -> None:
    done = publish_run(PublishConfig(folder=run, repo="me/woof"))
    assert done.url == f"{hub.url}/datasets/me/woof/commit/1"
    held = dict(hub.datasets["me/woof"])
    assert held.pop(".gitattributes")
    assert held == contents(done.folder) == contents(dry(run))
    assert not hub.private


def test_fewer_files_replace_more_in_one_commit(run: Path, hub: HubServer) -> None:
    publish_run(PublishConfig(folder=run, repo="me/woof", private=True))
    assert hub.private == {"me/woof"}
    hub.datasets["me/woof"]["data/train-00001-of-00002.parquet"] = b"of an earlier run"
    publish_run(PublishConfig(folder=run, repo="me/woof"))
    assert [name for name in hub.datasets["me/woof"] if name.startswith("data/")] == [
        "data/train-00000-of-00001.parquet"
    ]
    assert hub.commits == 2


def test_what_was_sent_before_a_failure_is_not_sent_again(run: Path, hub: HubServer) -> None:
    hub.refuse_large_after = 1
    with pytest.raises(UserError, match=r"the hub refused me/woof: .*413"):
        publish_run(PublishConfig(folder=run, repo="me/woof"))
    assert len(hub.sent) == 1
    assert set(hub.datasets["me/woof"]) == {".gitattributes"}  # nothing of it appears before all is there
    first, hub.refuse_large_after = dict(hub.sent), None
    hub.sent = dict.fromkeys(first, b"kept")
    publish_run(PublishConfig(folder=run, repo="me/woof"))
    assert {hub.sent[oid] for oid in first} == {b"kept"}
    assert len(hub.sent) == 3


def test_an_interrupted_upload_leaves_the_dataset_as_it_was(run: Path, hub: HubServer) -> None:
    class Stopping(Bar):
        def advance(self, n: int = 1) -> None:
            raise KeyboardInterrupt

    class Stopped(Progress):
        def stage(self, name: str, **options: Any) -> Any:
            return nullcontext(Stopping() if name == "upload" else Bar())

    with pytest.raises(Interrupted, match="me/woof is as it was"):
        publish_run(PublishConfig(folder=run, repo="me/woof"), Stopped(quiet=True))
    assert hub.commits == 0


# what it refuses


@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("", "me/woof", "me/woof needs a token of the hub: `hf auth login`, or HF_TOKEN"),
        ("wrong", "me/woof", "the hub does not know your token"),
        ("reader-token", "me/woof", "your token may not write me/woof: it must be of the kind write"),
        ("owner-token", "they/woof", "your token may not write they/woof"),
        ("owner-token", "me/taken", "me/taken must be free on the hub or hold what publish wrote, got"),
    ],
)
def test_the_hubs_refusals_are_one_line(
    run: Path,
    hub: HubServer,
    token: str,
    repo: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "no token"))
    hub.datasets["me/taken"] = {"train.csv": b""}
    assert main(["publish", str(run), repo, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert hub.commits == 0
    assert run.with_name("woof-2-hub").exists() == said.startswith("your token may not")


def test_a_hub_that_cannot_be_reached_is_told_before_any_work(
    run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the hub could not be reached .*OfflineModeIsEnabled"):
        publish_run(PublishConfig(folder=run, repo="me/woof"))
    assert not run.with_name("woof-2-hub").exists()


@pytest.mark.parametrize(
    "repo", ["woof", "me/", "me/wo of", "a/b/c", "me/woof.git", "me/" + "w" * 96, "me/a--b"]
)
def test_names_that_the_hub_does_not_take(repo: str) -> None:
    with pytest.raises(UserError, match="repo must be owner/name"):
        PublishConfig(folder="x", repo=repo)


def test_an_unfinished_run_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder must hold a finished run of distill"):
        dry(tmp_path)
