"""Claims: one holder at a time, lifted by the end of a process however it ends, nothing left lying about."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mgd3_fast.storage.claims import Claim, claim, remove_unheld


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".work.lock"


def taken(path: Path) -> Claim:
    found = claim(path)
    assert found is not None
    return found


def test_one_holder_at_a_time(path: Path) -> None:
    first = taken(path)
    assert claim(path) is None
    first.release()
    taken(path).release()


def test_nothing_is_left_after_release(path: Path) -> None:
    held = taken(path)
    assert path.exists()
    held.release()
    held.release()
    assert not path.exists()


def test_a_released_file_is_not_taken_for_the_new_one(path: Path) -> None:
    """Whoever opened the file before it was deleted must not believe that it holds the name."""
    first = taken(path)
    waiting = os.open(path, os.O_RDWR)
    first.release()
    second = taken(path)
    fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the deleted file's lock is free
    assert claim(path) is None
    second.release()
    os.close(waiting)


def test_many_threads_never_hold_it_together(path: Path) -> None:
    inside, most, done = [0], [0], []

    def work() -> None:
        while len(done) < 200:
            held = claim(path)
            if held is None:
                continue
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
            done.append(1)
            held.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_claim_of_a_killed_process_is_free(path: Path) -> None:
    holder = (
        "import fcntl, os, sys, time\n"
        "fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", holder, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert claim(path) is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    remove_unheld(path.parent)
    assert not path.exists()


def test_held_claims_are_not_swept_away(path: Path) -> None:
    held = taken(path)
    remove_unheld(path.parent)
    assert path.exists()
    held.release()


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks_give_every_claim(
    path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = taken(path), taken(path)
    first.release()
    second.release()


def test_other_failures_are_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken disk"):
        claim(path)
