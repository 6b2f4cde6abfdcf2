"""The reader of finished runs and of class folders: what it finds, and what it does not believe."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgd3_fast.datasets import Dataset, open_dataset
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.writers import write_manifest, write_png
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage
from mgd3_fast.writers.reader import read_ahead, read_classes, read_labelled, read_run
from tests.fakes.manifests import whole_manifest

NAMES = ("ant", "bee")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for name in NAMES:
        write_image(tmp_path / "real" / name / "0.png", 0)
    return open_dataset(str(tmp_path / "real"))


def write_image(path: Path, shade: int) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = write_png(path, np.full((4, 4, 3), shade, np.uint8), path.with_suffix(".draft"))
    return {"sha256": sha256, "weight": 0.5}


def write_run(folder: Path, **changes: Any) -> Path:
    """A run whose folders sort the other way round than its labels; `changes` are of the first record."""
    records, classes = [], []
    for label, name in enumerate(NAMES):
        classes.append({"name": name, "label": label, "folder": f"f{1 - label}", "source_images": 9})
        for mode in range(11):
            file = f"f{1 - label}/{mode}.png"
            facts = write_image(folder / file, 20 * label + mode)
            records.append({"file": file, "label": label, "class": name, "mode": mode, **facts})
    records[0].update(changes)
    dataset = {**whole_manifest()["dataset"], "classes_in_list": 2}
    sections = whole_manifest(classes=classes, images=records[::-1], dataset=dataset)
    write_manifest(folder / "manifest.json", sections, folder / "draft")
    return folder


def test_a_run_is_read_in_label_and_mode_order(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), "folder")
    assert [(one.label, one.index) for one in run.images] == [(k, i) for k in (0, 1) for i in range(11)]
    assert [one.path.parent.name for one in run.by_class["ant"]] == ["f1"] * 11
    assert [(one.name, one.label, one.images) for one in run.classes] == [("ant", 0, 11), ("bee", 1, 11)]
    assert (run.name, run.dataset, run.names, run.complete, run.ipc) == ("run", "insects", NAMES, True, 11)
    assert run.images[3].facts == {"mode": 3, "weight": 0.5}
    assert hashlib.sha256(run.images[3].content()).hexdigest() == run.images[3].sha256


def test_classes_of_a_run_are_read_by_file_name_with_what_the_manifest_says(
    tmp_path: Path, dataset: Dataset
) -> None:
    """The authors' order: 0, 1, 10, 2, ..., of which `ipc` takes the first."""
    folder = read_classes(write_run(tmp_path / "run"), dataset, "folder", 3)
    assert [one.path.relative_to(folder.path).as_posix() for one in folder.by_class["ant"]] == [
        "f1/0.png",
        "f1/1.png",
        "f1/10.png",
    ]
    assert [one.facts["mode"] for one in folder.by_class["ant"]] == [0, 1, 10]
    assert folder.ipc == 3
    with pytest.raises(UserError, match="ipc must be at most 11, the images of class ant"):
        read_classes(folder.path, dataset, "folder", 12)


def test_images_that_the_manifest_does_not_list_have_no_sha256(tmp_path: Path, dataset: Dataset) -> None:
    path = write_run(tmp_path / "run")
    for name in ("f0", "f1"):
        write_image(path / name / "99.png", 7)
    folder = read_classes(path, dataset, "folder")
    assert [one.path.name for one in folder.images if one.sha256 is None] == ["99.png", "99.png"]
    assert len(read_run(path, "folder").images) == 22


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "../0.png"}, r"images must lie inside their folder, got '\.\./0\.png'"),
        ({"file": "/etc/0.png"}, "images must lie inside their folder"),
        ({"class": "../ant"}, r"class names must be names of visible folders, got '\.\./ant'"),
        ({"class": ".ant"}, "class names must be names of visible folders"),
        ({"class": "fly"}, "is damaged: its classes and its images do not agree on class 'fly'"),
        ({"label": 2}, r"labels must be 0 to 1, got 2 in the manifest"),
        ({"label": -1}, r"labels must be 0 to 1, got -1 in the manifest"),
    ],
    ids=["up", "elsewhere", "class above", "hidden class", "other class", "label above", "label below"],
)
def test_one_wrong_record_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_run(write_run(tmp_path / "run", **changes), "folder")


def test_a_folder_of_classes_that_leaves_the_run_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    path = write_run(tmp_path / "run")
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"folder": "f1"', '"folder": "../real/ant"'))
    with pytest.raises(UserError, match=r"images must lie inside their folder, got '\.\./real/ant'"):
        read_classes(path, dataset, "folder")


def test_bytes_are_compared_where_they_are_copied(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), "folder")
    first, second = run.images[:2]
    write_image(first.path, 200)
    with pytest.raises(UserError, match=r"f1/0\.png was changed: it has another sha256"):
        first.content()
    second.path.unlink()
    for read in (second.content, second.load, run.check_files):
        with pytest.raises(UserError, match=r"f1/1\.png is missing .*again"):
            read()


def test_files_that_are_no_images_are_counted(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "real" / "ant" / "1.gif").write_bytes(b"")
    (tmp_path / "real" / "bee" / "notes.txt").write_bytes(b"")
    counted = "2 files were left out: 1 .gif, 1 .txt"
    assert read_classes(tmp_path / "real", dataset, "folder").notes == (counted,)
    lines = io.StringIO()
    read_labelled(tmp_path / "real", str(tmp_path / "real"), "folder", Progress(stream=lines))
    assert lines.getvalue().splitlines()[0] == counted


def test_a_folder_without_manifest_is_hashed_and_numbered(tmp_path: Path, dataset: Dataset) -> None:
    for number in (10, 2, 1):
        recorded = write_image(tmp_path / "set" / "00001" / f"{number}.png", number)
    folder = read_labelled(tmp_path / "set", str(tmp_path / "real"), "src", SILENT)
    assert [(one.index, one.path.name, one.class_name) for one in folder.images] == [
        (0, "1.png", "bee"),
        (1, "2.png", "bee"),
        (2, "10.png", "bee"),
    ]
    assert folder.images[0].sha256 == recorded["sha256"]
    assert folder.images[0].facts == {"original": "00001/1.png"}
    assert not folder.complete
    assert folder.how_made is None


def test_uneven_classes_have_no_ipc() -> None:
    images = tuple(LabelledImage(Path(f"{k}.png"), min(k, 1), NAMES[min(k, 1)], 0) for k in range(3))
    folder = LabelledFolder(Path("set"), "insects", NAMES, images)
    assert not folder.even
    with pytest.raises(UserError, match="set must hold equally many images of every class, got 1 of ant"):
        folder.check_even()
    assert folder.first(1).even


def test_reading_ahead_keeps_the_order() -> None:
    images = [LabelledImage(Path(f"{k}.png"), 0, "ant", k) for k in range(200)]
    assert list(read_ahead(images, lambda image: image.index)) == list(range(200))
