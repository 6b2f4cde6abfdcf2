"""The journal and the output folder it belongs to: what counts as finished, and whose folder it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.errors import UserError
from mgd3_fast.writers import (
    WORK,
    Layout,
    RunFolder,
    check_ours,
    check_writable,
    file_digest,
    write_manifest,
)
from mgd3_fast.writers.journal import Journal, read_journal
from tests.fakes.manifests import whole_manifest

LAYOUT = Layout(("ant", "bee"), (0, 1), 2)
SETTINGS: dict[str, Any] = {"dataset": "insects", "ipc": 2, "cfg_scale": 4.0}


def run_in(out: Path, part: int = 1, parts: int = 1, **changes: Any) -> RunFolder:
    return RunFolder(out, {**SETTINGS, **changes}, LAYOUT, part, parts)


def write_image(run: RunFolder, image: int, content: bytes = b"picture") -> None:
    path = run.out / LAYOUT.file(image)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    run.record(image, str(file_digest(path)))


def finish(out: Path) -> None:
    out.mkdir(exist_ok=True)
    write_manifest(out / "manifest.json", whole_manifest(settings=SETTINGS), out / "draft")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_journal_keeps_records_in_order(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append({"image": 3, "sha256": "a"})
    with Journal(path) as journal:
        journal.append({"image": 1, "sha256": "b"})
    assert list(read_journal(path)) == [{"image": 3, "sha256": "a"}, {"image": 1, "sha256": "b"}]


@pytest.mark.parametrize("kept", range(1, 25))
def test_half_a_last_line_does_not_count_and_is_cut_off(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    whole = b'{"image": 0, "sha256": "a"}\n'
    path.write_bytes(whole + b'{"image": 1, "sha256": "b"}\n'[:kept])
    assert list(read_journal(path)) == [{"image": 0, "sha256": "a"}]
    with Journal(path) as journal:
        journal.append({"image": 2, "sha256": "c"})
    assert [record["image"] for record in read_journal(path)] == [0, 2]


def test_a_record_is_visible_to_others_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"image": 0})
        assert list(read_journal(tmp_path / "journal.jsonl")) == [{"image": 0}]


def test_one_shard_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl"), pytest.raises(UserError, match="another process"):
        Journal(tmp_path / "journal.jsonl")
    Journal(tmp_path / "journal.jsonl").close()


def test_the_manifest_of_an_output_folder_is_that_of_a_finished_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_in(out).finished_manifest() is None
    out.mkdir()
    assert run_in(out).finished_manifest() is None
    (out / "modes.safetensors").write_bytes(b"of `discover`")
    assert run_in(out).finished_manifest() is None
    with run_in(out).open():
        assert run_in(out).finished_manifest() is None
    finish(out)
    manifest = run_in(out).finished_manifest()
    assert manifest is not None
    assert manifest["settings"] == SETTINGS


@pytest.mark.parametrize("finished", [False, True], ids=["unfinished", "finished"])
def test_other_settings_are_refused_and_the_first_difference_named(tmp_path: Path, finished: bool) -> None:
    with run_in(tmp_path).open():
        pass
    if finished:
        finish(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"whose ipc is 2 while 3 is asked for"):
        run_in(tmp_path, ipc=3, cfg_scale=1.0).finished_manifest()
    assert tree(tmp_path) == before


def test_another_run_that_started_meanwhile_is_noticed_when_opening(tmp_path: Path) -> None:
    late = run_in(tmp_path, ipc=3)
    with run_in(tmp_path).open():
        pass
    with pytest.raises(UserError, match="whose ipc is 2 while 3 is asked for"), late.open():
        pass


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("thesis.tex", "zebra.png"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"with 'thesis.tex' and 1 more"):
        run_in(tmp_path).finished_manifest()
    with pytest.raises(UserError, match=r"with 'thesis.tex' and 1 more"):
        check_ours(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="out must be a folder, got the file"):
        run_in(tmp_path / "out").finished_manifest()


def test_damaged_run_file_is_named(tmp_path: Path) -> None:
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run.json is damaged, so the run of .* is not known"):
        run_in(tmp_path).finished_manifest()


def test_trying_to_write_leaves_no_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "c")
    assert tree(tmp_path) == {}
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / "there")
    assert tree(tmp_path) == {"there": b""}


def test_unwritable_place_gives_the_systems_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"out must be a folder that can be written, got .*: Not a directory"):
        check_writable(tmp_path / "file" / "out")


def test_journals_of_all_shards_count(tmp_path: Path) -> None:
    for part in (1, 2):
        with run_in(tmp_path, part, 2).open() as run:
            write_image(run, part)
            run.record_session({"id": str(part), "started": f"2026-01-0{3 - part}"})
    digests, sessions = run_in(tmp_path).finished()
    assert sorted(digests) == [1, 2]
    assert [session["id"] for session in sessions] == ["2", "1"]


def test_the_last_note_of_a_process_counts(tmp_path: Path) -> None:
    with run_in(tmp_path).open() as run:
        run.record_session({"id": "a", "started": "now", "images": None})
        run.record_session({"id": "a", "started": "now", "images": 4})
        assert run.finished()[1] == [{"id": "a", "started": "now", "images": 4}]


def test_only_files_with_the_recorded_digest_are_intact(tmp_path: Path) -> None:
    with run_in(tmp_path).open() as run:
        for image in range(4):
            write_image(run, image)
        (tmp_path / LAYOUT.file(1)).write_bytes(b"scribble")
        (tmp_path / LAYOUT.file(2)).unlink()
        digests, _ = run.finished()
        assert sorted(run.intact(digests, range(4))) == [0, 3]
        assert sorted(run.intact(digests, range(1, 4))) == [3]


def test_unfinished_files_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.temporary.mkdir(parents=True)
    (run.temporary / "7.png").write_bytes(b"half a pict")
    with run.open():
        assert list(run.temporary.iterdir()) == []
    assert not run.temporary.exists()


def test_of_several_finishing_shards_one_completes(tmp_path: Path) -> None:
    with run_in(tmp_path, 1, 2).open() as first, run_in(tmp_path, 2, 2).open() as second:
        with first.completing() as ours:
            assert ours
            finish(tmp_path)
            first.clear()
        with second.completing() as ours:
            assert not ours


def test_losing_the_working_state_to_the_other_shard_is_no_error(tmp_path: Path) -> None:
    with run_in(tmp_path, 1, 2).open() as run:
        with run.completing() as ours:
            assert ours
            finish(tmp_path)
            run.clear()
            (run.work / "modes").stat()  # as if locks did not work
        assert not (tmp_path / WORK).exists()


def test_losing_the_working_state_otherwise_is_one(tmp_path: Path) -> None:
    def complete(run: RunFolder) -> None:
        with run.completing():
            run.clear()
            (run.work / "run.json").read_text()

    with run_in(tmp_path).open() as run, pytest.raises(FileNotFoundError):
        complete(run)


def test_reopened_run_keeps_what_is_intact(tmp_path: Path) -> None:
    finish(tmp_path)
    run = run_in(tmp_path)
    with run.open():
        run.reopen([{"id": "a", "started": "then"}], {0: "digest"})
        assert run.finished() == ({0: "digest"}, [{"id": "a", "started": "then"}])
    assert run_in(tmp_path).finished_manifest() is None
