"""The main job end to end on a random generator: the same files whatever happens on the way."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.tiny_generator import make_tiny_generator
from mgd3_fast.cli import main
from mgd3_fast.config import DiscoverConfig, DistillConfig, EncodeConfig
from mgd3_fast.datasets import imagenet_classes
from mgd3_fast.errors import Interrupted, UserError
from mgd3_fast.generators.autoencoder import KLAutoencoder
from mgd3_fast.modes import ModeSet
from mgd3_fast.progress import SILENT
from mgd3_fast.run import finishing, generated, mode_finder, sources, worker
from mgd3_fast.run.discovery import discover
from mgd3_fast.run.distillation import DistilledDataset, distill
from mgd3_fast.run.generated import GeneratedImages
from mgd3_fast.run.preparing import prepare
from mgd3_fast.run.sampler import batch_rows
from mgd3_fast.run.sources import encode
from mgd3_fast.writers import WORK, RunFolder
from tests.fakes.killing import kill_python
from tests.fakes.pictures import photo
from tests.fakes.read_only import read_only

pytestmark = pytest.mark.usefixtures("cache")


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and tidy up."""


@pytest.fixture
def run(tiny_generator: Path, pictures: Path) -> Callable[..., DistilledDataset]:
    def call(out: Path, **changes: Any) -> DistilledDataset:
        settings: dict[str, Any] = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 4}
        return distill(DistillConfig(out=out, **{**settings, "batch_size": 8, **changes}))

    return call


@pytest.fixture(scope="module")
def whole(
    tiny_generator: Path, pictures: Path, cache_of_session: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An uninterrupted run of 12 images, which others are compared with."""
    out = tmp_path_factory.mktemp("whole") / "out"
    config = DistillConfig(
        dataset=str(pictures),
        generator=str(tiny_generator),
        ipc=4,
        batch_size=8,
        out=out,
        cache_dir=cache_of_session,
    )
    distill(config)
    return out


def contents(out: Path) -> dict[str, Any]:
    """Every file by path: bytes, but the manifest without what differs between equal runs."""
    files: dict[str, Any] = {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }
    manifest = json.loads(files["manifest.json"])
    del manifest["sessions"]
    return {**files, "manifest.json": manifest}


def image_files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.glob("*/*.png"))


def pixels(out: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(out / file)) for file in image_files(out)]).astype(int)


def test_output_is_an_imagefolder_with_manifest_modes_and_contact_sheet(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        "ant",
        "bee",
        "contact_sheet.png",
        "cow",
        "manifest.json",
        "modes.safetensors",
    ]
    assert image_files(whole) == [f"{name}/{k}.png" for name in ("ant", "bee", "cow") for k in range(4)]
    assert pixels(whole).shape == (12, 16, 16, 3)
    assert pixels(whole).std() > 5


def test_manifest_says_what_was_made_from_what(whole: Path, tiny_generator: Path, pictures: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["settings"]["ipc"] == 4
    assert (manifest["settings"]["discovery"], manifest["settings"]["kmeans"]) == ("kmeans", "sklearn")
    assert manifest["guidance"] == {
        "form": "posterior",
        "scale": 0.1,
        "t_stop": 2,
        "guided_steps": 1,
        "steps": 4,
    }
    assert manifest["generator"]["licence"] == "MIT"
    assert manifest["generator"]["source"] == tiny_generator.name
    assert [one["source_images"] for one in manifest["classes"]] == [7, 7, 7]
    (session,) = manifest["sessions"]
    assert session["images"] == 12
    assert {"discover", "sample", "decode", "write", "total"} <= set(session["timings_s"])
    assert session["versions"]["torch"]
    modes = ModeSet.load(whole / "modes.safetensors")
    for number, record in enumerate(manifest["images"]):
        label, mode = divmod(number, 4)
        assert record["label"] == label
        assert record["mode"] == mode
        assert record["weight"] == pytest.approx(float(modes.weights[label, mode]), abs=1e-6)
        source = pictures / record["class"] / record["source_image"]
        assert source.name == f"{int(modes.source_index[label, mode])}.png"
        assert record["source_index"] == int(modes.source_index[label, mode])
        assert record["source_image"] == modes.source_images[label][mode]
        assert source.exists()
    assert len({record["seed"] for record in manifest["images"]}) == 12


def test_result_iterates_over_paths_and_labels(run: Callable[..., DistilledDataset], whole: Path) -> None:
    result = run(whole)
    assert len(result) == 12
    assert result.class_names == ("ant", "bee", "cow")
    assert [label for _, label in result] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(path.is_file() for path, _ in result)


def test_a_finished_folder_is_left_alone(
    run: Callable[..., DistilledDataset], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_run(*_: Any) -> None:
        raise AssertionError("nothing was to be done")

    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    for module, name in (
        (GeneratedImages, "making"),
        (sources, "encode_dataset"),
        (mode_finder, "discover_modes"),
    ):
        monkeypatch.setattr(module, name, must_not_run)
    result = run(whole)
    assert result.made == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda out: (out / "bee/2.png").unlink(), id="image missing"),
        pytest.param(lambda out: (out / "bee/2.png").write_bytes(b"scribble"), id="image damaged"),
        pytest.param(lambda out: shutil.rmtree(out / "cow"), id="class missing"),
        pytest.param(lambda out: (out / "modes.safetensors").unlink(), id="modes missing"),
        pytest.param(lambda out: (out / "modes.safetensors").write_bytes(b"scribble"), id="modes damaged"),
        pytest.param(lambda out: (out / "contact_sheet.png").unlink(), id="contact sheet missing"),
    ],
)
def test_a_damaged_finished_folder_is_mended(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    harm(out)
    assert run(out).manifest is not None
    assert contents(out) == contents(whole)


def after(calls: int, function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Let a function work a few times, then die before it does anything."""
    made = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made > calls:
            raise error
        return function(*arguments, **options)

    return wrapped


KILL_POINTS = [
    pytest.param(mode_finder, "discover_modes", 0, id="before the modes"),
    pytest.param(generated, "PngWriter", 0, id="after the modes"),
    pytest.param(KLAutoencoder, "decode_batches", 0, id="in the first batch"),
    pytest.param(KLAutoencoder, "decode_batches", 1, id="in the second batch"),
    pytest.param(RunFolder, "record", 3, id="between an image and its journal line"),
    pytest.param(worker, "finish", 0, id="after the last image"),
    pytest.param(finishing, "write_contact_sheet", 0, id="after modes.safetensors"),
    pytest.param(finishing, "write_manifest", 0, id="before the manifest"),
    pytest.param(RunFolder, "clear", 0, id="after the manifest"),
]


@pytest.mark.parametrize(("owner", "name", "calls"), KILL_POINTS)
def test_killed_anywhere_it_ends_the_same(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path, owner: Any, name: str, calls: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, after(calls, getattr(owner, name), Killed()))
        with pytest.raises(Killed):
            run(tmp_path / "out")
    assert (tmp_path / "out" / WORK).is_dir()
    run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)
    assert not (tmp_path / "out" / WORK).exists()


@pytest.mark.parametrize(
    "options", [{}, {"method": "kmeans-closest", "generator": "auto"}], ids=["mgd3", "real"]
)
def test_every_unit_can_be_done_twice(
    run: Callable[..., DistilledDataset],
    tiny_generator: Path,
    pictures: Path,
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    settings: dict[str, Any] = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 2}
    prepared = prepare(DistillConfig(out=tmp_path / "units", **settings | options), SILENT)
    with prepared.folder.open():
        for unit in (0, 1, 2, 1):
            prepared.encode([unit])
        for image in (5, 0, 1, 2, 3, 4, 3):
            modes = prepared.find_modes(prepared.layout.classes_of([image]))
            with prepared.making() as make:
                make([image], modes)()
        assert finishing.finish(prepared, modes) == 0
    run(tmp_path / "whole", ipc=2, **{"batch_size": "auto", **options})
    assert contents(tmp_path / "units") == contents(tmp_path / "whole")


def test_resuming_makes_only_what_is_missing(run: Callable[..., DistilledDataset], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KLAutoencoder, "decode_batches", after(1, KLAutoencoder.decode_batches, Killed()))
        with pytest.raises(Killed):
            run(tmp_path / "out")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.png")}
    assert len(first) == 8
    assert run(tmp_path / "out").made == 4
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_interruption_says_what_is_kept(run: Callable[..., DistilledDataset], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            KLAutoencoder, "decode_batches", after(1, KLAutoencoder.decode_batches, KeyboardInterrupt())
        )
        with pytest.raises(Interrupted, match=r"^8 of 12 images are kept in"):
            run(tmp_path / "out")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)], ids=str)
def test_shards_one_after_the_other_give_the_same_folder(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    left = []
    for part in order:
        result = run(tmp_path / "out", shard=f"{part}/3")
        assert result.made == 4
        left.append(result.missing)
    assert left == [8, 4, 0]
    assert contents(tmp_path / "out") == contents(whole)


def test_shards_at_the_same_time_give_the_same_folder(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path
) -> None:
    results: dict[int, DistilledDataset] = {}
    threads = [
        threading.Thread(
            target=lambda part=part: results.update({part: run(tmp_path / "o", shard=f"{part}/3")})
        )
        for part in (1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1, 2, 3]
    assert any(result.manifest for result in results.values())
    assert contents(tmp_path / "o") == contents(whole)


def test_a_run_without_shards_takes_up_what_shards_left(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path
) -> None:
    run(tmp_path / "out", shard="2/3")
    assert run(tmp_path / "out").made == 8
    assert contents(tmp_path / "out") == contents(whole)


def test_a_second_run_of_the_same_shard_is_refused(
    run: Callable[..., DistilledDataset], tmp_path: Path
) -> None:
    seen: list[BaseException] = []

    def run_again(*_: Any) -> None:
        try:
            run(tmp_path / "out")
        except UserError as error:
            seen.append(error)

    with pytest.MonkeyPatch.context() as patch:
        original = GeneratedImages.making
        patch.setattr(
            GeneratedImages,
            "making",
            lambda *given: (run_again(), original(*given))[1] if not seen else original(*given),
        )
        run(tmp_path / "out")
    assert "another process" in str(seen[0])


def test_batch_size_changes_at_most_a_level_in_a_thousandth_of_the_pixels(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path
) -> None:
    for batch_size in (1, 7, 60):
        run(tmp_path / str(batch_size), batch_size=batch_size)
        difference = np.abs(pixels(tmp_path / str(batch_size)) - pixels(whole))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 1e-3


def test_other_seed_or_no_guidance_gives_other_images(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path
) -> None:
    run(tmp_path / "seed", seed=1)
    run(tmp_path / "off", mode_scale=0.0, t_stop=4)
    reference = pixels(whole)
    assert (pixels(tmp_path / "seed") != reference).mean() > 0.5
    assert (pixels(tmp_path / "off") != reference).any()
    assert json.loads((tmp_path / "off/manifest.json").read_text())["guidance"]["form"] == "none"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"t_stop": 3},
            "--t-stop must be below 3 with 4 steps, or guidance acts on none, got 3; for no mode",
        ),
        ({"t_stop": 49, "t_stop_of": 50}, "with 4 steps, .* which --t-stop-of 50 makes of it; for no mode"),
        (
            {"steps": 1},
            "--steps must be at least 2 for mode guidance, got 1; .* --method unguided or --mode-s",
        ),
    ],
    ids=str,
)
def test_guidance_of_no_step_is_refused_before_anything_is_written(
    run: Callable[..., DistilledDataset], tmp_path: Path, options: dict[str, int], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run(tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_solver_interval_and_stop_are_in_the_manifest(
    run: Callable[..., DistilledDataset], tmp_path: Path
) -> None:
    options = {"sampler": "dpmpp", "cfg_interval": (0, 600), "t_stop": 25, "t_stop_of": 50}
    out = tmp_path / "out"
    run(out, **options)
    manifest = json.loads((out / "manifest.json").read_text())
    settings = manifest["settings"]
    assert (settings["sampler"], settings["cfg_interval"]) == ("dpmpp", [0, 600])
    assert "t_stop_of" not in settings
    guidance = manifest["guidance"]
    assert guidance["form"] == "epsilon"
    assert settings["t_stop"] == guidance["t_stop"] == (guidance["steps"] - 1) // 2
    before = pixels(out)
    run(out, **options)  # is finished, and left alone
    assert np.array_equal(pixels(out), before)
    with pytest.raises(UserError, match="cfg_interval"):
        run(out, **options | {"cfg_interval": (0, 700)})
    with pytest.raises(
        ValueError, match="cfg_interval 1 to 2 holds none of the run's timesteps; the nearest are 0 and"
    ):
        run(tmp_path / "none", cfg_interval=(1, 2))


def test_numeric_format_names_folders_by_label(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path
) -> None:
    result = run(tmp_path / "out", format="numeric")
    assert image_files(tmp_path / "out") == [f"{c:05d}/{k}.png" for c in range(3) for k in range(4)]
    assert np.array_equal(pixels(tmp_path / "out"), pixels(whole))
    assert result.class_names == ("ant", "bee", "cow")


def test_some_classes_keep_their_labels_and_images(
    run: Callable[..., DistilledDataset], whole: Path, tmp_path: Path
) -> None:
    result = run(tmp_path / "out", classes="cow,ant", format="numeric")
    assert [label for _, label in result] == [0] * 4 + [2] * 4
    assert sorted({file[:5] for file in image_files(tmp_path / "out")}) == ["00000", "00002"]
    kept = [number for number in range(12) if not 4 <= number < 8]
    assert np.array_equal(pixels(tmp_path / "out"), pixels(whole)[kept])


def test_labels_follow_an_unsorted_class_list(
    tiny_generator: Path, tmp_path: Path, run: Callable[..., DistilledDataset]
) -> None:
    names = imagenet_classes("imagewoof")
    assert list(names) != sorted(names)
    for label, name in enumerate(names[:3]):
        (tmp_path / "ilsvrc/train" / name).mkdir(parents=True)
        for number in range(3):
            photo(1000 * label + number).save(tmp_path / f"ilsvrc/train/{name}/{number}.JPEG")
    options = {"dataset": "imagewoof", "data_dir": tmp_path / "ilsvrc", "classes": "0-2", "ipc": 2}
    with pytest.raises(
        UserError, match=r"must have 3 classes, got 10 .*: generator tiny has 3, and does not say which"
    ):
        run(tmp_path / "refused", **options)
    make_tiny_generator(tmp_path / "generator", 10)
    result = run(tmp_path / "out", **options, generator=str(tmp_path / "generator"))
    assert result.class_names == names[:3]
    assert [(path.parent.name, label) for path, label in result] == [
        (names[label], label) for label in range(3) for _ in range(2)
    ]


def test_another_ipc_reuses_the_latents(
    run: Callable[..., DistilledDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGD3_CACHE", str(tmp_path / "cache"))
    counts: list[int] = []
    original = KLAutoencoder.encode
    monkeypatch.setattr(
        KLAutoencoder, "encode", lambda self, images: (counts.append(len(images)), original(self, images))[1]
    )
    run(tmp_path / "two", ipc=2)
    assert counts
    counts.clear()
    run(tmp_path / "three", ipc=3)
    run(tmp_path / "some", ipc=2, classes="bee")
    assert counts == []


def test_encode_and_discover_are_taken_up_by_distill(
    run: Callable[..., DistilledDataset],
    whole: Path,
    tiny_generator: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MGD3_CACHE", str(tmp_path / "cache"))
    source: dict[str, Any] = {"dataset": str(pictures), "generator": str(tiny_generator)}
    report, _ = encode(EncodeConfig(**source))
    assert (report.images, report.reused) == (21, 0)
    report, _ = encode(EncodeConfig(**source))
    assert (report.images, report.reused) == (0, 21)
    path, modes = discover(DiscoverConfig(**source, ipc=4, out=tmp_path / "out"))
    assert path.read_bytes() == (whole / "modes.safetensors").read_bytes()
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["modes.safetensors"]
    monkeypatch.setattr(sources, "encode_dataset", None)
    monkeypatch.setattr(mode_finder, "discover_modes", None)
    assert discover(DiscoverConfig(**source, ipc=4, out=tmp_path / "out"))[1].key == modes.key
    run(tmp_path / "out")
    run(tmp_path / "other", modes=whole / "modes.safetensors")
    assert contents(tmp_path / "out") == contents(whole)
    assert contents(tmp_path / "other") == contents(whole)


def test_a_whole_cache_that_cannot_be_written_serves_a_run(
    run: Callable[..., DistilledDataset], whole: Path, pictures: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run(tmp_path / "filling", cache_dir=cache, ipc=2)
    (store,) = (cache / "latents-2").iterdir()
    (store / ".left.lock").touch()
    others = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    photo(99).save(others / "bee/7.png")
    with read_only(cache):
        run(tmp_path / "out", cache_dir=cache)
        with pytest.raises(
            UserError, match=r"cache_dir must be a writable folder, got .* latents are missing"
        ):
            run(tmp_path / "more", cache_dir=cache, dataset=str(others))
        with pytest.raises(UserError, match=r"cache_dir must be a writable folder, got .*: Read-only file"):
            run(tmp_path / "flipped", cache_dir=cache, flip="both")
    assert contents(tmp_path / "out") == contents(whole)


def test_skipped_images_are_left_out_and_told(
    run: Callable[..., DistilledDataset], pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "pictures/bee/3.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"bee/3.png"):
        run(tmp_path / "out", dataset=str(tmp_path / "pictures"))
    assert not (tmp_path / "out").exists()
    result = run(tmp_path / "out", dataset=str(tmp_path / "pictures"), on_bad_image="skip")
    assert len(result) == 12
    assert result.manifest is not None
    assert [one["image"] for one in result.manifest["dataset"]["skipped"]] == ["bee/3.png"]
    assert "bee/3.png" not in {
        f"{one['class']}/{one['source_image']}" for one in result.manifest["images"] if one["class"] == "bee"
    }


@pytest.mark.parametrize("method", ["mgd3", "random", "herding"])
def test_a_skipped_image_is_told_once(
    method: str, pictures: Path, tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "pictures/bee/3.png").write_bytes(b"not a picture")
    command = ["distill", "--dataset", str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
    command += ["--generator", str(tiny_generator), "--cache-dir", str(tmp_path / "cache")]
    assert main([*command, "--ipc", "6", "--method", method, "--on-bad-image", "skip"]) == 0
    assert capsys.readouterr().err.count("skipped bee/3.png: not an image that Pillow can read") == 1


@pytest.mark.parametrize(
    ("images", "area", "device", "rows"),
    [
        (100, 64, "cpu", 56),
        (64, 64, "cpu", 64),
        (3, 64, "cpu", 8),
        (500, 64, "cpu", 64),
        (10, 32 * 32, "cpu", 8),
        (50_000, 32 * 32, "cuda", 128),
        (50_000, 64 * 64, "cuda", 32),
        (100, 8 * 8, "cuda", 104),
    ],
)
def test_batches_are_equal_and_a_multiple_of_eight(images: int, area: int, device: str, rows: int) -> None:
    assert batch_rows(images, area, device) == rows


def test_batches_do_not_depend_on_the_shard(
    run: Callable[..., DistilledDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    original = GeneratedImages.making
    monkeypatch.setattr(
        GeneratedImages,
        "making",
        lambda source, *rest: (shapes.append(source.sampler.batch_shape), original(source, *rest))[1],
    )
    for part in (1, 2, 3):
        run(tmp_path / "out", shard=f"{part}/3", batch_size="auto")
    run(tmp_path / "whole", batch_size="auto")
    assert shapes == [16, 16, 16, 16]


def test_sigkill_at_random_moments(
    run: Callable[..., DistilledDataset], tiny_generator: Path, pictures: Path, tmp_path: Path
) -> None:
    """Two real SIGKILLs, each some milliseconds after the journal grew, then a run to the end."""
    options = {
        "ipc": 7,
        "steps": 40,
        "batch_size": 1,
        "dataset": str(pictures),
        "generator": str(tiny_generator),
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    out, moments = tmp_path / "out", random.Random(20)
    journal = out / WORK / "journal-1-of-1.jsonl"
    for lines in (3, 10):
        kill_python(
            *("-m", "mgd3_fast", "distill", "--quiet", "--out", str(out), *words),
            once=lambda lines=lines: journal.exists() and journal.read_bytes().count(b"\n") >= lines,
            later_s=moments.uniform(0, 0.05),
        )
    assert 0 < len(image_files(out)) < 21
    run(out, **options)
    run(tmp_path / "whole", **options)
    assert contents(out) == contents(tmp_path / "whole")


def test_unguided_and_d4m_are_methods_of_their_own(
    run: Callable[..., DistilledDataset], tmp_path: Path
) -> None:
    made = {
        name: run(tmp_path / name, **options)
        for name, options in {
            "mgd3": {},
            "unguided": {"method": "unguided"},
            "scale 0": {"mode_scale": 0.0},
            "d4m": {"method": "d4m"},
            "d4m whole": {"method": "d4m", "start_strength": 1.0},
        }.items()
    }
    shown = {name: pixels(dataset.folder) for name, dataset in made.items()}
    assert np.array_equal(shown["unguided"], shown["scale 0"])
    for one, other in (("mgd3", "unguided"), ("d4m", "unguided"), ("d4m", "d4m whole")):
        assert not np.array_equal(shown[one], shown[other])
    manifest = made["d4m"].manifest
    assert manifest is not None
    assert manifest["settings"]["start_strength"] == 0.7
    assert manifest["guidance"]["guided_steps"] == 0
    with pytest.raises(UserError, match="start_strength must be left out with method mgd3"):
        run(tmp_path / "no", start_strength=0.5)
    with pytest.raises(UserError, match="t_stop must be left out with method d4m"):
        run(tmp_path / "no", method="d4m", t_stop=3)


def test_caching_is_recorded_and_changes_images(run: Callable[..., DistilledDataset], tmp_path: Path) -> None:
    """The tiny generator samples in 4 steps: from index 3 on, 3 and 1 are computed, 2 and 0 reuse them."""
    cached = run(tmp_path / "cached", cache_steps=2, cache_from=3, t_stop=0)
    every = run(tmp_path / "every", cache_steps=1, cache_from=3, t_stop=0)
    settings = cached.manifest["settings"]
    assert {name: settings.pop(f"cache_{name}") for name in ("steps", "order", "from")} == {
        "steps": 2,
        "order": 0,
        "from": 3,
    }
    assert settings == every.manifest["settings"]
    files = [path.relative_to(cached.folder) for path, _ in cached]
    assert any((cached.folder / file).read_bytes() != (every.folder / file).read_bytes() for file in files)
    shards = tmp_path / "shards"
    for part in ("1/2", "2/2"):
        run(shards, cache_steps=2, cache_from=3, t_stop=0, shard=part)
    assert contents(shards) == contents(cached.folder)
