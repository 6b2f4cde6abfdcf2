"""The images of a run that is under way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgd3_fast.errors import UserError
from mgd3_fast.writers import WORK, Layout, RunFolder
from mgd3_fast.writers.growing import images_so_far
from tests.writers.test_reader import write_run

LAYOUT = Layout(("ant", "bee"), (3, 7), 2)


def shard(out: Path, part: int) -> RunFolder:
    return RunFolder(out, {"dataset": "insects"}, LAYOUT, part, 2)


def test_what_the_journals_of_all_shards_name_is_there(tmp_path: Path) -> None:
    with shard(tmp_path, 1).open() as first, shard(tmp_path, 2).open() as second:
        with pytest.raises(UserError, match=r"out must hold finished images, got .*, where none is finished"):
            images_so_far(tmp_path, "out")
        second.record(2, "c" * 64)
        first.record(1, "b" * 64)
        images = images_so_far(tmp_path, "out")
    assert [(one.label, one.class_name, one.index) for one in images] == [(3, "ant", 1), (7, "bee", 0)]
    assert [one.path.relative_to(tmp_path).as_posix() for one in images] == ["ant/1.png", "bee/0.png"]
    assert [one.sha256 for one in images] == ["b" * 64, "c" * 64]


def test_the_manifest_of_a_finished_run_has_the_last_word(tmp_path: Path) -> None:
    with shard(tmp_path, 1).open() as run:
        run.record(1, "b" * 64)
        write_run(tmp_path)
        assert len(images_so_far(tmp_path, "out")) == 22


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="out must hold a finished run of distill"):
        images_so_far(tmp_path, "out")


def test_a_run_that_does_not_say_its_classes_is_refused(tmp_path: Path) -> None:
    with shard(tmp_path, 1).open() as run:
        run.record(1, "b" * 64)
        started = tmp_path / WORK / "run.json"
        started.write_text(json.dumps({"settings": {"dataset": "insects"}}))
        with pytest.raises(UserError, match=r"run.json is damaged, or of an earlier version"):
            images_so_far(tmp_path, "out")
