"""What a run needs of its file system, and what it does without locks, hard links or files seen at once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.errors import UserError
from mgd3_fast.run.distillation import distill
from mgd3_fast.writers import WORK, RunFolder
from mgd3_fast.writers.journal import Journal
from tests.fakes.distilled_runs import woof_config
from tests.fakes.file_systems import seen_late, without_hard_links, without_locks
from tests.writers.test_journal import LAYOUT, SETTINGS


def part_of(out: Path, part: int, parts: int = 2, **changes: Any) -> RunFolder:
    return RunFolder(out, {**SETTINGS, **changes}, LAYOUT, part, parts)


def write_part(folder: RunFolder, part: int) -> None:
    for image in LAYOUT.block(part, 2):
        path = folder.out / LAYOUT.file(image)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % image)
        folder.record(image, f"sha256 of {image}")


def files_of(out: Path) -> dict[str, bytes]:
    """Everything but the manifest, whose sessions have times."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


# locks


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_journal_is_kept_without_locks(tmp_path: Path, reason: int) -> None:
    with without_locks(reason), Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"image": 0})
        Journal(tmp_path / "journal.jsonl").close()  # nothing tells the two apart
    assert (tmp_path / "journal.jsonl").read_bytes() == b'{"image": 0}\n'


def test_the_same_part_twice_at_once_without_locks_is_only_work_done_twice(tmp_path: Path) -> None:
    with without_locks(), part_of(tmp_path, 1).open() as one, part_of(tmp_path, 1).open() as other:
        write_part(one, 1)
        write_part(other, 1)
        digests, _ = one.finished()
    assert digests == {image: f"sha256 of {image}" for image in LAYOUT.block(1, 2)}


# hard links


@pytest.mark.parametrize("reason", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_the_first_settings_stay(tmp_path: Path, reason: int) -> None:
    with without_hard_links(reason), part_of(tmp_path, 1).open():
        with (
            pytest.raises(UserError, match="whose ipc is 2 while 3 is asked for"),
            part_of(tmp_path, 2, ipc=3).open(),
        ):
            pass
        with part_of(tmp_path, 2).open():
            pass
    assert [path.name for path in (tmp_path / WORK).glob("run*")] == ["run.json"]


# what other machines wrote


def test_settings_that_are_seen_late_are_not_written_over(tmp_path: Path) -> None:
    with part_of(tmp_path, 1).open():
        pass
    before = (tmp_path / WORK / "run.json").read_bytes()
    late = part_of(tmp_path, 2, ipc=3)
    with seen_late(tmp_path / WORK, looks=1) as asked:
        with pytest.raises(UserError, match="whose ipc is 2 while 3 is asked for"), late.open():
            pass
        assert asked[str(tmp_path / WORK / "run.json")] == 2  # once not there, then linked, refused, and read
    assert (tmp_path / WORK / "run.json").read_bytes() == before


def test_the_last_part_sees_all_where_files_are_seen_when_they_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: what another machine reads of a file is what was in it when it was last closed."""
    append, close, held = Journal.append, Journal.close, dict[Journal, list[dict[str, Any]]]()

    def release(journal: Journal) -> None:
        for record in held.pop(journal, []):
            append(journal, record)
        close(journal)

    monkeypatch.setattr(Journal, "append", lambda self, record: held.setdefault(self, []).append(record))
    monkeypatch.setattr(Journal, "close", release)
    seen = []
    with part_of(tmp_path, 1).open() as one, part_of(tmp_path, 2).open() as other:
        write_part(one, 1)
        write_part(other, 2)
        for folder in (one, other):
            with folder.completing() as ours:
                assert ours
                seen.append(sorted(folder.finished()[0]))
    assert seen == [[0, 1], [0, 1, 2, 3]]


# whole runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("woof")


@pytest.fixture(scope="module")
def wanted(place: Path) -> dict[str, bytes]:
    """What one process writes."""
    return files_of(distill(woof_config(place)).folder)


def test_parts_without_locks_and_hard_links_write_the_same_folder(
    place: Path, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    with without_locks(), without_hard_links():
        for shard in ("1/2", "2/2"):
            done = distill(
                woof_config(place, out=tmp_path / "out", cache_dir=tmp_path / "cache", shard=shard)
            )
    assert done.manifest is not None
    assert files_of(tmp_path / "out") == wanted


def test_a_part_that_sees_the_others_late_is_finished_by_the_same_command(
    place: Path, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    first, second = (
        woof_config(place, out=tmp_path / "out", cache_dir=tmp_path / "cache", shard=f"{n}/2") for n in (1, 2)
    )
    distill(first)
    # A client that has not looked before has nothing wrong in its cache: the run's settings are seen.
    with seen_late(tmp_path, looks=1000, but="run.json") as asked:
        assert distill(second).missing == 10
    assert any("journal-1-of-2" in name for name in asked)
    assert distill(second).missing == 0
    assert files_of(tmp_path / "out") == wanted
    assert not (tmp_path / "out" / WORK).exists()
