"""SIGTERM ends a command within seconds, whatever library is at work, and cuts off no checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mgd3_fast.interruption import terminable

# A query is one call into a library: no handler of Python's runs before it is over.
PROGRAM = """
import sqlite3, sys
from pathlib import Path
from mgd3_fast import interruption

interruption.GRACE_S = 0.3

def query(rows):
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT count(*) FROM n"
    sqlite3.connect(":memory:").execute(count, [rows]).fetchone()

with interruption.terminable(), interruption.postponed_interrupt():
    with interruption.saving():
        print("ready", flush=True)
        query(int(sys.argv[1]))
        Path(sys.argv[2]).write_text("whole")
    query(10**11)
"""


def test_a_library_at_work_is_ended_after_the_checkpoint(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(10**7), str(tmp_path / "checkpoint")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 30
    assert said.startswith("mgd3-fast: interrupted in the middle of a step; what was finished is kept")
    assert said.count("\n") == 1
    assert (tmp_path / "checkpoint").read_text() == "whole"


def test_signals_are_as_before_afterwards() -> None:
    threads, handler = threading.active_count(), signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is not handler
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_sets_no_handler() -> None:
    found = []

    def enter() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with terminable():
            found.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [True]
