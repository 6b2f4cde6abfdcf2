"""`mgd3-fast encode` and what follows it, over every kind of source, in one part or several."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.cli import main
from mgd3_fast.config import DiscoverConfig, EncodeConfig
from mgd3_fast.progress import SILENT
from mgd3_fast.run.discovery import discover
from mgd3_fast.run.sources import encode, open_sources, open_training_images
from tests.fakes.pictures import encoded, photo
from tests.fakes.tars import tar_bytes, write_shards

pytest.importorskip("webdataset")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `encode --json` and returns what it printed."""

    def run(dataset: str | Path, **options: Any) -> dict[str, Any]:
        words = ["encode", "--json", "--quiet", "--dataset", str(dataset), "--generator", str(tiny_generator)]
        words += ["--cache-dir", str(tmp_path / "cache")]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        assert main(words) == 0
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return printed

    return run


@pytest.fixture
def piped(tmp_path: Path) -> str:
    """Four shards behind a pipe, two photos of each of three classes in each."""
    write_shards(tmp_path / "shards", [["0", "1", "2", "2", "1", "0"]] * 4)
    return f"wds:pipe:cat {tmp_path}/shards/{{000..003}}.tar"


def test_parts_of_a_folder_are_classes(run: Run, pictures: Path) -> None:
    first = run(pictures, shard="1/2")
    assert (first["encoded"], first["counts"]) == (14, {"ant": 7, "cow": 7})
    assert run(pictures, shard="2/2")["counts"] == {"bee": 7}
    assert (run(pictures)["encoded"], run(pictures)["reused"]) == (0, 21)


def test_parts_of_a_stream_are_its_shards(run: Run, piped: str) -> None:
    first = run(piped, shard="1/2")
    assert (first["encoded"], first["counts"]) == (12, {})
    second = run(piped, shard="2/2")
    assert (second["encoded"], second["reused"], second["counts"]) == (12, 12, dict.fromkeys("012", 8))
    assert (run(piped)["encoded"], run(piped)["reused"]) == (0, 24)


def test_parts_of_a_second_reading(run: Run, piped: str) -> None:
    run(piped)
    first = run(piped, shard="1/2", flip="both")
    assert (first["encoded"], first["counts"]) == (12, {})
    assert run(piped, shard="2/2", flip="both")["counts"] == dict.fromkeys("012", 16)


def test_changed_or_added_tars_alone_are_encoded(run: Run, tmp_path: Path) -> None:
    tars = write_shards(tmp_path / "shards", [["0", "1", "2"]] * 3)
    spec = f"wds:{tmp_path}/shards/*.tar"
    assert run(spec)["encoded"] == 9
    tars[1].write_bytes(tar_bytes({"x.png": encoded(photo(50), "PNG"), "x.cls": b"2"}))
    again = run(spec)
    assert (again["encoded"], again["reused"], again["counts"]) == (1, 6, {"0": 2, "1": 2, "2": 3})
    write_shards(tmp_path / "more", [["2", "0", "1", "1"]], first=60)
    more = run(f"{spec}::{tmp_path}/more/000.tar")
    assert (more["encoded"], more["reused"]) == (4, 7)


def test_alike_tars_of_two_folders_are_kept_apart(run: Run, tmp_path: Path, tiny_generator: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        (tar,) = write_shards(tmp_path / folder, [["0", "0"]], first=10 * number, kind="BMP")
        os.utime(tar, (1, 1))
    spec = f"wds:{tmp_path}/{{a,b}}/000.tar"
    assert (tmp_path / "a/000.tar").stat().st_size == (tmp_path / "b/000.tar").stat().st_size
    assert run(spec)["encoded"] == 4
    config = EncodeConfig(dataset=spec, generator=str(tiny_generator), cache_dir=tmp_path / "cache")
    sources = open_sources(config, SILENT)
    latents = sources.store.get(sources.dataset.classes[0])
    assert latents is not None
    assert len(latents.flatten(1).unique(dim=0)) == 4


def test_latents_of_an_earlier_version_are_told_once_and_left_alone(
    pictures: Path, tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["encode", "--dataset", str(pictures), "--generator", str(tiny_generator)]
    words += ["--cache-dir", str(tmp_path / "cache")]
    assert main(words) == 0
    assert "earlier version" not in capsys.readouterr().err
    old = tmp_path / "cache" / "latents" / "d1gest-16px-float32-fp32" / "ant-0123.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    assert main(words) == 0
    line = (
        f"{tmp_path}/cache/latents holds latents as an earlier version stored them, which are not used any"
        " more: delete the folder to free its room"
    )
    assert capsys.readouterr().err.splitlines().count(line) == 1
    assert old.read_bytes() == b"old"


def test_a_stream_is_read_when_modes_are_asked_for(piped: str, tiny_generator: Path, tmp_path: Path) -> None:
    config = DiscoverConfig(
        dataset=piped, generator=str(tiny_generator), cache_dir=tmp_path, ipc=2, out=tmp_path / "out"
    )
    _, modes = discover(config)
    assert (modes.class_names, modes.ipc) == (("0", "1", "2"), 2)
    report, sources = encode(config)
    assert (report.images, report.reused, sources.encoded.images) == (0, 24, 0)


def test_parquet_and_tars_of_the_same_images_give_the_same_latents(
    run: Run, tmp_path: Path, tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    names = ["ant", "bee"]
    images = [encoded(photo(number), "PNG") for number in range(8)]
    labels = [number % 2 for number in range(8)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": image, "path": None} for image in images], "label": labels}
    (tmp_path / "parquet").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "parquet" / "train.parquet")
    (tmp_path / "tars").mkdir()
    contents = {
        f"{n}.{kind}": one
        for n, image in enumerate(images)
        for kind, one in (("png", image), ("cls", str(labels[n]).encode()))
    }
    (tmp_path / "tars" / "0.tar").write_bytes(tar_bytes(contents))
    (tmp_path / "tars" / "classes.txt").write_text("\n".join(names))
    specs = [f"hf:{tmp_path}/parquet", f"wds:{tmp_path}/tars/0.tar"]
    found = []
    for spec in specs:
        assert run(spec)["counts"] == {"ant": 4, "bee": 4}
        config = EncodeConfig(dataset=spec, generator=str(tiny_generator), cache_dir=tmp_path / "cache")
        sources = open_sources(config, SILENT)
        found.append([sources.store.get(cls) for cls in sources.dataset.classes])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert one.equal(other)


@pytest.mark.parametrize(("option", "value"), [("flip", "random"), ("flip", "both"), ("storage", "fp16")])
def test_settings_reach_the_store(run: Run, pictures: Path, option: str, value: str) -> None:
    plain, other = run(pictures), run(pictures, **{option: value})
    assert other["encoded"] == 21
    assert Path(other["folder"]).name.endswith(value if option == "storage" else f"flip-{value}")
    factor = {"random": 1, "both": 2, "fp16": 0.5}[value]
    assert other["bytes_written"] == plain["bytes_written"] * factor
    assert other["counts"] == dict.fromkeys(("ant", "bee", "cow"), 14 if value == "both" else 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "3/2"], "--shard must be I/N with I from 1 to N, auto or auto/N, got '3/2'"),
        (["--shard", "4/5"], "--shard must be of at most 3 classes, got 4/5"),
        (["--flip", "up"], "--flip must be one of none, random, both, got 'up'"),
        (["--storage", "bf16"], "--storage must be one of fp32, fp16, got 'bf16'"),
    ],
)
def test_mistakes_are_one_line(
    pictures: Path,
    tiny_generator: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    words = ["encode", "--quiet", "--dataset", str(pictures), "--generator", str(tiny_generator), *options]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"mgd3-fast: error: {message}")


def test_links_that_lead_nowhere_are_skipped_and_counted_or_named(
    run: Run, tmp_path: Path, tiny_generator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ant", "bee", "cow"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(encoded(photo(0), "PNG"))
    link = tmp_path / "set" / "bee" / "1.png"
    link.symlink_to(tmp_path / "gone.png")
    words = ["encode", "--dataset", str(tmp_path / "set"), "--generator", str(tiny_generator)]
    words += ["--cache-dir", str(tmp_path / "cache")]
    for _ in range(2):
        assert main([*words, "--on-bad-image", "skip"]) == 0
        told = capsys.readouterr()
        reason = f"the link leads nowhere, to {tmp_path}/gone.png"
        assert f"skipped bee/1.png: {reason}" in told.err.splitlines()
        assert ", 1 skipped, in" in told.out
        assert main(words) == 2
        assert f"error: {link} cannot be read: {reason} (" in capsys.readouterr().err
    link.unlink()
    assert run(tmp_path / "set")["skipped"] == 0


@pytest.mark.parametrize("read_before", [False, True])
def test_streams_have_no_held_out_part(run: Run, piped: str, tmp_path: Path, read_before: bool) -> None:
    if read_before:
        run(piped)
    config = EncodeConfig(dataset=piped, split="fit", cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="split must be train for a stream, got fit for wds:pipe"):
        open_training_images(config, SILENT)


def test_images_of_a_stream_that_was_never_read_are_not_there(piped: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `mgd3-fast encode` on it first"):
        open_training_images(EncodeConfig(dataset=piped, cache_dir=tmp_path), SILENT)
