"""A run by several workers is the run that one process makes, to the byte, whatever dies on the way."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mgd3_fast.config import DistillConfig
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run import distillation
from mgd3_fast.run.distillation import DistilledDataset, distill
from mgd3_fast.run.units import FindModes, MakeImages, divided, parts_for
from tests.fakes.pictures import photo
from tests.fakes.tars import write_shards
from tests.fakes.units import InTurn
from tests.run.test_distill import contents

pytestmark = pytest.mark.usefixtures("cache")

MAKE_ONE_AT_A_TIME = {"ipc": 7, "steps": 40, "batch_size": 1}


@pytest.fixture
def run(tiny_generator: Path, pictures: Path, tmp_path: Path) -> Callable[..., DistilledDataset]:
    def call(out: str, progress: Progress = SILENT, **changes: Any) -> DistilledDataset:
        settings: dict[str, Any] = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 4}
        settings |= {"batch_size": 8, "device": "cpu", **changes}
        return distill(DistillConfig(out=tmp_path / out, **settings), progress)

    return call


@pytest.fixture
def three(run: Callable[..., DistilledDataset]) -> Callable[..., DistilledDataset]:
    """The same by three workers, who take turns."""

    def call(*given: Any, **changes: Any) -> DistilledDataset:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distillation, "open_workers", lambda _, setup, *rest, **named: InTurn(setup, 3))
            return run(*given, **changes)

    return call


def test_two_processes_of_which_one_is_killed(run: Callable[..., DistilledDataset], tmp_path: Path) -> None:
    told = io.StringIO()

    def kill_one() -> None:
        while not any(tmp_path.glob("two/*/*.png")):
            time.sleep(0.005)
        victim = next(one for one in psutil.Process().children() if "mgd3_fast.workers" in one.cmdline())
        victim.kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    made = run("two", Progress(stream=told), workers=2, **MAKE_ONE_AT_A_TIME)
    killer.join()
    run("one", **MAKE_ONE_AT_A_TIME)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    lines = told.getvalue().splitlines()
    assert sum("was killed by SIGKILL" in line and "begun again" in line for line in lines) == 1
    assert sum(line.startswith("ant, bee, cow") or "images per class" in line for line in lines) == 1
    assert [line for line in lines if line.startswith("sample: ")][-1].startswith("sample: 21/21 img")
    assert made.made == 21
    assert made.manifest is not None
    sessions = made.manifest["sessions"]
    assert {session["worker"] for session in sessions} == {1, 2}
    # The unit that the killed one had in hand was made elsewhere; an image may lie there unrecorded.
    assert sum(session["images"] or 0 for session in sessions) == 21


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="generated"),
        pytest.param({"method": "kmeans-closest", "generator": "auto"}, id="real"),
        pytest.param({"format": "parquet", "trace": "ant/0"}, id="export and trace"),
    ],
)
def test_workers_in_turn(
    run: Callable[..., DistilledDataset],
    three: Callable[..., DistilledDataset],
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    run("one", **options)
    made = three("three", cache_dir=tmp_path / "cache", **options)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert made.made == 12
    assert made.mode_recovery == run("again", **options).mode_recovery


def test_a_shard_of_several_workers_and_a_finished_folder_that_lost_files(
    run: Callable[..., DistilledDataset], three: Callable[..., DistilledDataset], tmp_path: Path
) -> None:
    run("one")
    assert three("three", shard="2/2").missing == 6
    assert three("three", shard="1/2").missing == 0
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    (tmp_path / "three/bee/1.png").unlink()
    (tmp_path / "three/modes.safetensors").unlink()
    mended = three("three")
    assert mended.made == 1
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert mended.manifest is not None
    assert len(mended.manifest["sessions"]) > 2


@pytest.mark.parametrize("method", ["mgd3", "random"])
def test_images_left_out_are_in_the_manifest(
    run: Callable[..., DistilledDataset],
    three: Callable[..., DistilledDataset],
    tmp_path: Path,
    method: str,
) -> None:
    for label, name in enumerate(("ant", "bee", "cow")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(7):
            photo(100 * label + number).save(tmp_path / f"pictures/{name}/{number}.png")
    (tmp_path / "pictures/bee/3.png").write_bytes(b"scribble")
    options = {"dataset": str(tmp_path / "pictures"), "on_bad_image": "skip", "method": method, "ipc": 6}
    for out in (run("one", **options), three("three", **options)):
        assert out.manifest is not None
        assert [one["image"] for one in out.manifest["dataset"]["skipped"]] == ["bee/3.png"]
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def test_shards_of_mixed_classes(
    run: Callable[..., DistilledDataset], three: Callable[..., DistilledDataset], tmp_path: Path
) -> None:
    """Read whole where they are first read; of three classes one is asked for later."""
    write_shards(tmp_path / "shards", [["ant", "bee", "cow", "bee"], ["cow", "ant", "ant"], ["bee", "cow"]])
    dataset = f"wds:{tmp_path}/shards/{{000..002}}.tar"
    for folder, make in (("one", run), ("three", three)):
        options = {"dataset": dataset, "ipc": 2, "cache_dir": tmp_path / f"cache of {folder}"}
        make(f"{folder}, two classes", classes="0,1", **options)
        make(folder, **options)
    for name in ("", ", two classes"):
        assert contents(tmp_path / f"three{name}") == contents(tmp_path / f"one{name}")


def test_a_mistake_in_a_worker_is_answered_as_in_one_process(
    three: Callable[..., DistilledDataset], run: Callable[..., DistilledDataset], tmp_path: Path
) -> None:
    for make in (run, three):
        with pytest.raises(
            UserError, match="ipc must be at most 7, the number of images of class ant, got 8"
        ):
            make("out", ipc=8)
    assert not (tmp_path / "out").exists()


def test_units_are_as_many_as_workers_need_and_say_what_they_are() -> None:
    assert [parts_for(things, workers) for things, workers in ((1000, 1), (1000, 8), (5, 8), (0, 2))] == [
        *(1, 64, 5, 1)
    ]
    assert list(divided(range(5), 2)) == [(0, 1), (2, 3, 4)]
    assert str(MakeImages((8, 9, 10))) == "images 8 to 10"
    assert str(MakeImages((8, 40))) == "images 8, 40"
    assert str(FindModes((3,))) == "the modes of class 3"
