"""`mgd3-fast convert` and `distill --format`: what they say, what they refuse, all or nothing."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.tiny_generator import make_tiny_generator
from mgd3_engine.installing import install_command
from mgd3_fast.cli import main
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.formats import CONVERTED_FORMATS, ConvertConfig, convert
from mgd3_fast.formats import converting as converting_module
from mgd3_fast.formats import target as target_module
from mgd3_fast.run.distillation import distill
from mgd3_fast.writers import write_png
from tests.fakes.distilled_runs import WOOF, woof_config, woof_run
from tests.fakes.full_disks import largest_file

ALL_FORMATS = ("imagefolder", "numeric", "tensor", "parquet", "webdataset")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of the module lies, with the tree and the generator it was made from."""
    return tmp_path_factory.mktemp("woof")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    return woof_run(place)


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "own"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def words(src: Path, out: Path, format: str, **options: Any) -> list[str]:
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return ["convert", str(src), str(out), "--format", format, *given]


# what it says


@pytest.mark.parametrize("format", ALL_FORMATS)
def test_convert_reports_in_a_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    assert main(words(run, tmp_path / "out", format)) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(
        rf"20 images of 10 classes as {format} in {tmp_path / 'out'} \(0\.\d MiB, \d+\.\d s\)\n", printed.out
    )
    assert "convert: 20/20 img" in printed.err
    assert main(words(run, tmp_path / "out", format)) == 0
    assert "(nothing was left to do)" in capsys.readouterr().out


def test_convert_reports_in_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(run, tmp_path / "out", "webdataset"), "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    result = json.loads(printed.out)
    assert result.pop("seconds") >= 0
    size = sum((tmp_path / "out" / name).stat().st_size for name in ("mgd3-000000.tar", "classnames.txt"))
    assert result == {
        "folder": str(tmp_path / "out"),
        "format": "webdataset",
        "images": 20,
        "classes": 10,
        "bytes": size,
        "made": True,
    }


def test_the_same_conversion_again_touches_nothing(run: Path, tmp_path: Path) -> None:
    config = ConvertConfig(src=run, out=tmp_path / "out", format="numeric")
    assert convert(config).made
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert not convert(config).made
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_damaged_export_is_mended_and_an_edited_card_kept(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    config = ConvertConfig(src=run, out=tmp_path / "out", format="parquet")
    convert(config)
    whole = contents(tmp_path / "out")
    (tmp_path / "out/README.md").write_text("my words")
    (tmp_path / "out/data/train-00000-of-00001.parquet").write_bytes(b"scribble")
    assert convert(config).made
    assert contents(tmp_path / "out") == {**whole, "README.md": b"my words"}


def test_an_empty_folder_is_used(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(ConvertConfig(src=run, out=tmp_path / "out", format="numeric"))
    assert (tmp_path / "out/00009/1.png").exists()


# what it refuses


def unfinished(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    (source / "manifest.json").unlink()
    (source / ".mgd3-fast").mkdir()
    return words(source, place / "out", "numeric")


def no_manifest(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    (source / "manifest.json").unlink()
    return words(source, place / "out", "numeric")


def foreign_manifest(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    (source / "manifest.json").write_text('{"name": "a web page"}')
    return words(source, place / "out", "numeric")


def half_a_manifest(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    manifest = json.loads((source / "manifest.json").read_text())
    del manifest["classes"]
    (source / "manifest.json").write_text(json.dumps(manifest))
    return words(source, place / "out", "numeric")


def manifest_that_leaves_the_folder(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    text = (source / "manifest.json").read_text()
    (source / "manifest.json").write_text(text.replace(f'"file": "{WOOF[0]}/', '"file": "../'))
    return words(source, place / "out", "numeric")


def class_that_leaves_the_folder(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    text = (source / "manifest.json").read_text()
    (source / "manifest.json").write_text(text.replace(f'"class": "{WOOF[0]}"', '"class": "../x"'))
    return words(source, place / "out", "imagefolder")


def missing_image(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    (source / WOOF[3] / "1.png").unlink()
    return words(source, place / "out", "tensor")


def changed_image(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    write_png(source / WOOF[9] / "1.png", np.zeros((16, 16, 3), np.uint8), place / "draft.png")
    return words(source, place / "out", "webdataset")


def changed_modes(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    (source / "modes.safetensors").write_bytes(b"scribble")
    return words(source, place / "out", "numeric")


def missing_contact_sheet(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    (source / "contact_sheet.png").unlink()
    return words(source, place / "out", "numeric")


def out_of_somebody_else(place: Path, run: Path) -> list[str]:
    (place / "out").mkdir()
    (place / "out/thesis.tex").write_text("mine")
    return words(run, place / "out", "numeric")


def out_is_another_run(place: Path, run: Path) -> list[str]:
    shutil.copytree(run, place / "out")
    return words(run, place / "out", "numeric")


def out_is_another_export(place: Path, run: Path) -> list[str]:
    assert main([*words(run, place / "out", "webdataset"), "--quiet"]) == 0
    return words(run, place / "out", "tensor")


def out_is_a_file(place: Path, run: Path) -> list[str]:
    (place / "out").write_text("mine")
    return words(run, place / "out", "numeric")


def out_below_a_file(place: Path, run: Path) -> list[str]:
    (place / "file").write_text("mine")
    return words(run, place / "file/out", "numeric")


def out_is_src(place: Path, run: Path) -> list[str]:
    source = Path(shutil.copytree(run, place / "src"))
    return words(source, source, "numeric")


def pictures_at(place: Path, *names: str) -> Path:
    for name in names:
        (place / "src" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "src" / name / "0.png")
    return place / "src"


def out_inside_a_plain_folder(place: Path, run: Path) -> list[str]:
    source = pictures_at(place, "a", "b")
    return words(source, source / "out", "numeric", dataset=source)


def unknown_class(place: Path, run: Path) -> list[str]:
    return words(pictures_at(place, WOOF[0], "poodle"), place / "out", "numeric", dataset="imagewoof")


def label_out_of_range(place: Path, run: Path) -> list[str]:
    return words(pictures_at(place, "00010"), place / "out", "numeric", dataset="imagewoof")


def class_twice(place: Path, run: Path) -> list[str]:
    return words(pictures_at(place, WOOF[1], "00001"), place / "out", "numeric", dataset="imagewoof")


def no_classes(place: Path, run: Path) -> list[str]:
    (place / "src").mkdir()
    return words(place / "src", place / "out", "numeric", dataset="imagewoof")


def empty_class(place: Path, run: Path) -> list[str]:
    source = pictures_at(place, WOOF[0])
    (source / WOOF[1]).mkdir()
    return words(source, place / "out", "numeric", dataset="imagewoof")


def damaged_picture(place: Path, run: Path) -> list[str]:
    source = pictures_at(place, WOOF[0])
    (source / WOOF[0] / "1.png").write_bytes(b"not a picture")
    return words(source, place / "out", "numeric", dataset="imagewoof")


def options(**changes: Any) -> Callable[[Path, Path], list[str]]:
    given = {"format": "numeric", **changes}
    return lambda place, run: words(
        run,
        place / "out",
        given["format"],
        **{name: value for name, value in given.items() if name != "format"},
    )


CASES: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "unknown format": (
        options(format="zip"),
        "format must be one of imagefolder, numeric, tensor, parquet, webdataset, got 'zip'",
    ),
    "no such folder": (
        lambda place, run: words(place / "no", place / "out", "numeric"),
        "src must be an existing",
    ),
    "unfinished run": (unfinished, "src must be a finished run"),
    "no manifest": (no_manifest, "src must hold manifest.json, or --dataset name the class list"),
    "foreign manifest": (foreign_manifest, "src must hold a manifest of this mgd3-fast or none"),
    "half a manifest": (half_a_manifest, "damaged section 'classes'"),
    "manifest that leaves the folder": (
        manifest_that_leaves_the_folder,
        "images must lie inside their folder",
    ),
    "class that leaves the folder": (
        class_that_leaves_the_folder,
        "class names must be names of visible folders",
    ),
    "missing image": (missing_image, "1.png is missing (the distill command"),
    "changed image": (changed_image, "another sha256 than recorded"),
    "changed modes": (changed_modes, "with another sha256 than recorded"),
    "missing contact sheet": (missing_contact_sheet, "src must hold every file of its manifest"),
    "out of somebody else": (out_of_somebody_else, "out must be empty or hold what convert wrote"),
    "out is another run": (out_is_another_run, "out must be empty or hold what convert wrote"),
    "out is another export": (out_is_another_export, "out must be unused or hold this very conversion"),
    "out is a file": (out_is_a_file, "out must be a folder, got the file"),
    "out below a file": (out_below_a_file, "out must be a folder that can be written"),
    "out is src": (out_is_src, "out must be another folder than src"),
    "out inside a plain folder": (out_inside_a_plain_folder, "out must be another folder than src"),
    "unknown dataset": (options(dataset="imagewoofs"), "did you mean 'imagewoof'?"),
    "dataset of another list": (options(dataset="imagenette"), "dataset must be imagewoof, from which"),
    "unknown class": (unknown_class, "got 'poodle'"),
    "label out of range": (label_out_of_range, "got '00010'"),
    "class twice": (class_twice, "src must hold each class once"),
    "no classes": (no_classes, "src must hold one folder of images per class of imagewoof"),
    "empty class": (empty_class, "must hold images of every class, got none of"),
    "damaged picture": (damaged_picture, "images must be readable"),
    "size without tensor": (options(size=8), "size must be left out unless format is tensor"),
    "shards without files": (
        options(**{"shard-mib": 1}),
        "--shard-mib must be left out unless format is parquet or",
    ),
    "size of nothing": (options(format="tensor", size=0), "size must be a whole number from 1 to 8192"),
    "unknown number format": (options(format="tensor", dtype="fp8"), "dtype must be one of float32, uint8"),
    "normalised uint8": (
        options(format="tensor", dtype="uint8", normalisation="imagenet"),
        "normalisation must be none for dtype uint8",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_mistake_is_one_line_and_touches_nothing(
    case: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrange, said = CASES[case]
    arguments = arrange(tmp_path, run)
    before = contents(tmp_path)
    capsys.readouterr()
    assert main([*arguments, "--quiet"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("mgd3-fast: error: ")
    assert said in line
    assert contents(tmp_path) == before


def test_missing_package_names_the_extra(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert main([*words(run, tmp_path / "out", "parquet"), "--quiet"]) == 2
    assert install_command("data") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# all or nothing


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and tidy up."""


def test_ctrl_c_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mgd3_fast.formats.webdataset.add_sample", interrupt)
    assert main([*words(run, tmp_path / "new/out", "webdataset"), "--quiet"]) == 130
    assert capsys.readouterr().err == "mgd3-fast: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, written = Path.write_bytes, []

    def write_bytes(self: Path, content: bytes) -> int:
        written.append(self)
        if len(written) > 7:
            raise OSError(28, "No space left on device", str(self))
        return original(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert main([*words(run, tmp_path / "out", "numeric"), "--quiet"]) == 2
    assert capsys.readouterr().err.endswith("No space left on device\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensor_file", "size"),
    [("pt", 1000), ("pt", 61_500), ("safetensors", 61_500), ("both", 61_500)],
    ids=["no room for the array", "no room for images.pt", "no room for safetensors", "no room for either"],
)
def test_a_full_disk_ends_tensors_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tensor_file: str, size: int
) -> None:
    arguments = [*words(run, tmp_path / "out", "tensor"), "--tensor-file", tensor_file, "--quiet"]
    with largest_file(size):  # the array has 61,440 bytes, the files a header more
        assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mgd3-fast: error: {tmp_path / 'out'}")
    assert line.endswith("File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("renamed", [0, 5, 20, 22, 23])
def test_a_killed_conversion_is_made_whole_by_the_next(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    config = ConvertConfig(src=run, out=tmp_path / "out", format="numeric")
    convert(ConvertConfig(src=run, out=tmp_path / "whole", format="numeric"))
    original, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        if ".mgd3-fast" in self.parts and ".mgd3-fast" not in Path(target).parts:
            if len(calls) == renamed:
                raise Killed
            calls.append(target)
        return original(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(target_module.shutil, "rmtree", lambda *_, **options: None)
        with pytest.raises(Killed):
            convert(config)
    assert (tmp_path / "out/.mgd3-fast").is_dir()
    assert not (tmp_path / "out/export.json").exists()
    other = ConvertConfig(src=run, out=tmp_path / "out", format="webdataset")
    assert convert(other if renamed == 5 else config).made
    if renamed == 5:
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["README.md", "classnames.txt", "export.json", "mgd3-000000.tar"]
    else:
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_working_state_of_a_run_is_left_alone(run: Path, tmp_path: Path) -> None:
    config = ConvertConfig(src=run, out=tmp_path / "out", format="numeric")
    convert(config)
    (tmp_path / "out/00003/0.png").unlink()
    (tmp_path / "out/.mgd3-fast").mkdir()
    (tmp_path / "out/.mgd3-fast/run.json").write_text("{}")
    assert convert(config).made
    assert (tmp_path / "out/.mgd3-fast/run.json").exists()


def test_two_at_the_same_time_make_one_export(run: Path, tmp_path: Path) -> None:
    config = ConvertConfig(src=run, out=tmp_path / "out", format="numeric")
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.append(convert(config).made)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, True]
    assert (tmp_path / "out/export.json").exists()


# distill --format


@pytest.mark.parametrize("format", CONVERTED_FORMATS)
def test_a_finished_run_is_exported_by_the_same_command(
    place: Path, own_run: Path, tmp_path: Path, format: str
) -> None:
    before = contents(own_run)
    distilled = distill(woof_config(place, out=own_run, format=format))
    assert (distilled.made, distilled.export) == (0, own_run / format)
    convert(ConvertConfig(src=own_run, out=tmp_path / "converted", format=format))
    exported = contents(own_run)
    assert {name: exported[name] for name in before} == before
    assert contents(own_run / format) == contents(tmp_path / "converted")
    again = {path: path.stat().st_mtime_ns for path in own_run.rglob("*")}
    distill(woof_config(place, out=own_run, format=format))
    assert {path: path.stat().st_mtime_ns for path in own_run.rglob("*")} == again


def test_numeric_run_is_what_numeric_conversion_makes(place: Path, run: Path, tmp_path: Path) -> None:
    distill(woof_config(place, out=tmp_path / "run", format="numeric"))
    convert(ConvertConfig(src=run, out=tmp_path / "converted", format="numeric"))
    made, converted = contents(tmp_path / "run"), contents(tmp_path / "converted")
    del converted["export.json"]
    for files in (made, converted):
        manifest = json.loads(files["manifest.json"])
        del manifest["sessions"]
        files["manifest.json"] = json.dumps(manifest).encode()
    assert made == converted


def test_the_shard_that_finishes_last_exports(place: Path, run: Path, tmp_path: Path) -> None:
    first = distill(woof_config(place, out=tmp_path / "run", format="webdataset", shard="1/2"))
    assert (first.missing, first.export) == (10, None)
    assert not (tmp_path / "run/webdataset").exists()
    last = distill(woof_config(place, out=tmp_path / "run", format="webdataset", shard="2/2"))
    assert last.export == tmp_path / "run/webdataset"
    assert "export" in last.timings_s
    convert(ConvertConfig(src=run, out=tmp_path / "converted", format="webdataset"))
    assert contents(tmp_path / "run/webdataset") == contents(tmp_path / "converted")


def test_an_export_of_other_images_gives_way(place: Path, own_run: Path) -> None:
    config = woof_config(place, out=own_run, format="webdataset")
    distill(config)
    manifest = json.loads((own_run / "manifest.json").read_text())
    manifest["images"][0]["weight"] = 0.25
    (own_run / "manifest.json").write_text(json.dumps(manifest))
    before = contents(own_run / "webdataset")
    distill(config)
    after = contents(own_run / "webdataset")
    assert after["mgd3-000000.tar"] != before["mgd3-000000.tar"]
    assert json.loads(after["export.json"])["images"][0]["weight"] == 0.25


def test_a_damaged_image_is_made_again_and_the_export_stays(place: Path, own_run: Path) -> None:
    config = woof_config(place, out=own_run, format="webdataset")
    distill(config)
    before = contents(own_run)
    (own_run / WOOF[4] / "0.png").write_bytes(b"scribble")
    assert distill(config).made == 1
    after = contents(own_run)
    for files in (before, after):
        del files["manifest.json"]  # its sessions differ
    assert after == before


def test_an_export_does_not_take_the_folder_of_a_class(tmp_path: Path, place: Path, run: Path) -> None:
    for name in ("parquet", "tensor"):
        shutil.copytree(place / "ilsvrc/train" / WOOF[0], tmp_path / "pictures" / name)
    changes = {"dataset": str(tmp_path / "pictures"), "data_dir": None, "out": tmp_path / "out"}
    make_tiny_generator(tmp_path / "generator", 2)
    config = woof_config(place, **changes, generator=str(tmp_path / "generator"), format="tensor")
    with pytest.raises(UserError, match="format must not be the name of a class, got tensor"):
        distill(config)
    assert not (tmp_path / "out").exists()


def test_interrupted_export_keeps_the_images(
    place: Path, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(converting_module, "write_record", interrupt)
    before = contents(own_run)
    with pytest.raises(Interrupted, match=r"^all 20 images are kept in .*; the same command goes on with"):
        distill(woof_config(place, out=own_run, format="tensor"))
    assert contents(own_run) == before


def test_distill_names_the_export(place: Path, own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("distill", "--dataset", "imagewoof", "--data-dir", str(place / "ilsvrc")),
        *("--generator", str(place / "generator"), "--cache-dir", str(place / "cache")),
        *("--ipc", "2", "--out", str(own_run), "--format", "tensor", "--quiet", "--json"),
    ]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["export"] == str(own_run / "tensor")
    assert main([word for word in arguments if word not in ("--quiet", "--json")]) == 0
    assert f"export: {own_run / 'tensor'}\n" in capsys.readouterr().out
