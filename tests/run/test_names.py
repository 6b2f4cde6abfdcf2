"""Class folders and files whose names are not UTF-8, or spelled otherwise: through every command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from mgd3_fast.cli import main
from mgd3_fast.writers.reader import read_run
from tests.fakes.pictures import encoded, photo

NFC, NFD = (normalize(form, "café") for form in ("NFC", "NFD"))
BYTES = os.fsdecode(b"b\xe9te")
NAMES = (BYTES, NFC, "zebra")
CPU = ("--device", "cpu", "--quiet")


def run(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path) -> Path:
    """data/train and data/val of three classes, three pictures each; runs/made of them, one image a class."""
    root = tmp_path_factory.mktemp("names")
    for split, names in (("train", NAMES), ("val", (BYTES, NFD, "zebra"))):
        for label, name in enumerate(names):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                picture = encoded(photo(10 * label + number + 5 * (split == "val")), "PNG")
                (folder / os.fsdecode(b"%d-\xe9.png" % number)).write_bytes(picture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MGD3_CACHE", str(root / "cache"))
        source = ("--dataset", root / "data", "--generator", tiny_generator, *CPU)
        steps = ("--steps", "2", "--t-stop", "0", "--flip", "random")
        run("distill", *source, "--ipc", "1", *steps, "--out", root / "runs" / "made")
        yield root


@pytest.fixture
def made(place: Path) -> Path:
    return place / "runs" / "made"


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return manifest


def test_a_run_has_the_folders_of_its_dataset(made: Path) -> None:
    for name in NAMES:
        assert (made / name / "0.png").is_file()
    assert [one["name"] for one in manifest_of(made)["classes"]] == list(NAMES)
    assert os.fsencode(manifest_of(made)["images"][0]["source_image"]).endswith(b"-\xe9.png")
    assert [image.class_name for image in read_run(made, "folder").images] == list(NAMES)


def test_the_same_run_goes_on_and_a_folder_may_be_called_anything(place: Path, tiny_generator: Path) -> None:
    out = place / os.fsdecode(b"o\xff")
    words = ("--dataset", place / "data", "--generator", tiny_generator, *CPU)
    for _ in range(2):
        run("discover", *words, "--ipc", "1", "--out", out / "modes")
    assert (out / "modes" / "modes.safetensors").is_file()


def test_images_are_traced_by_names_as_they_are_written(
    made: Path, place: Path, tiny_generator: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "run")
    source = ("--dataset", place / "data", "--generator", tiny_generator, *CPU)
    steps = ("--ipc", "1", "--steps", "2", "--t-stop", "0", "--flip", "random", "--out", tmp_path / "run")
    run("distill", *source, *steps, "--trace", f"{NFD}/0,b\\xe9te/0", "--trace-stops", "0")
    assert (tmp_path / "run" / "trace.png").is_file()


@pytest.mark.parametrize("classes", [f"{NFD},{BYTES}", "b\\xe9te,1", f"0-1,{NFC}"])
def test_classes_are_chosen_as_they_are_spelled_or_written(place: Path, tmp_path: Path, classes: str) -> None:
    words = ("--dataset", place / "data", "--method", "random", "--ipc", "1", "--classes", classes, *CPU)
    run("distill", *words, "--out", tmp_path)
    assert [one["name"] for one in manifest_of(tmp_path)["classes"]] == [BYTES, NFC]


@pytest.mark.parametrize("format", ["imagefolder", "numeric", "tensor", "parquet", "webdataset"])
def test_runs_are_converted(made: Path, tmp_path: Path, format: str) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    run("convert", made, out, "--format", format, "--quiet")
    assert json.loads((out / "export.json").read_text("utf-8"))["class_list"] == list(NAMES)
    if format == "imagefolder":
        assert (out / BYTES / "0.png").is_file()
    if format == "parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(out / "data")
        assert table["class"].to_pylist() == ["b\\xe9te", NFC, "zebra"]
        assert "b\\xe9te" in (out / "README.md").read_text("utf-8")


def test_folders_without_a_manifest_are_read_by_their_names(place: Path, tmp_path: Path) -> None:
    words = ("--dataset", place / "data", "--format", "imagefolder", "--quiet")
    run("convert", place / "data" / "val", tmp_path / "out", *words)
    assert len(list((tmp_path / "out" / NFC).iterdir())) == 3


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The run as another file system spells it."""
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / NFC).rename(tmp_path / "copy" / NFD)
    return tmp_path / "copy"


def test_a_copy_with_other_accents_is_the_same_run(copied: Path, tmp_path: Path) -> None:
    run("convert", copied, tmp_path / "out", "--format", "imagefolder", "--quiet")
    assert (tmp_path / "out" / NFC / "0.png").is_file()


def test_evaluation_takes_val_spelled_otherwise(
    made: Path, copied: Path, place: Path, tmp_path: Path
) -> None:
    words = ("--dataset", place / "data", "--networks", "convnet2w8-in", "--epochs", "1", "--repeats", "1")
    run("evaluate", made, copied, *words, "--keep-weights", "on", *CPU, "--out", tmp_path)
    rows = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))["rows"]
    assert rows[0]["best"] == rows[1]["best"]


def test_evaluation_takes_a_dataset_spelled_otherwise(made: Path, place: Path, tmp_path: Path) -> None:
    words = ("--dataset", place / "data" / "val", "--eval-split", "val", "--networks", "convnet2w8-in")
    run("evaluate", made, *words, "--epochs", "1", "--repeats", "1", *CPU, "--out", tmp_path)


def test_the_report_shows_bytes_as_numbers(made: Path, place: Path, tmp_path: Path) -> None:
    run("report", made, "--dataset", place / "data", "--out", tmp_path / "page.html", "--quiet")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "b\\xe9te" in page
    assert NFC in page


def test_metrics_and_pictures_of_modes(made: Path, place: Path, tiny_generator: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("--dataset", place / "data", "--generator", tiny_generator)
    run("metrics", made, *words, *CPU, "--plot", "on", "--out", tmp_path / "metrics")
    run("discover", *words, "--ipc", "1", "--plot", tmp_path / "plots", *CPU, "--out", tmp_path / "modes")
    measured = json.loads((tmp_path / "metrics" / "metrics.json").read_text("utf-8"))
    assert list(measured["folders"][0]["classes"]) == list(NAMES)
