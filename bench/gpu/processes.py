"""Run checks in processes of their own, so that none that crashes or hangs takes others with it.

A process runs its checks one after another and writes its results before and after each. When it ends early,
the check that was running has failed, and another process takes up those behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

CHECKS = "bench.gpu.checks"
RUNNING = "running"
_GRACE_S = 10.0  # a process ends itself at its limit; this is how long it may take

Result = dict[str, Any]
Found = Callable[[dict[str, Result]], None]


class CheckProcesses:
    """Runs lists of checks and tells what is found as it is found.

    Args:
        arguments: Of every process, beside the names of its checks.
        folder: Where processes leave their results.
        deadline: `time.monotonic()` at which everything ends.
        found: Called with results whenever there are new ones, never twice at once.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, deadline: float, found: Found) -> None:
        self._arguments, self._folder, self._deadline = list(arguments), folder, deadline
        self._found, self._lock, self._started = found, Lock(), 0

    def run_beside(self, names: Sequence[str], processes: int, together: bool) -> None:
        """Run checks in so many processes at once.

        Args:
            names: Checks.
            processes: At most so many at once.
            together: Each process runs its share of the checks, not one: starting costs more than they do.
        """
        groups = [names[k::processes] for k in range(processes)] if together else [[name] for name in names]
        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(self.run_in_turn, groups))

    def run_in_turn(self, names: Sequence[str]) -> None:
        """Run checks one after another, by as many processes as it takes."""
        left = list(names)
        while left:
            if time.monotonic() >= self._deadline:
                self._tell({name: {"status": "not reached"} for name in left})
                return
            finished = self._run_process(left)
            left = [name for name in left if name not in finished]

    def _run_process(self, names: Sequence[str]) -> set[str]:
        """Run a process to its end; returns the checks that need not be run any more."""
        with self._lock:
            self._started += 1
            folder = self._folder / str(self._started)
        budget = max(self._deadline - time.monotonic(), 0.0)
        command = [sys.executable, "-m", CHECKS, *self._arguments, "--out", str(folder)]
        command += ["--budget-s", f"{budget:.1f}", "--only", *names]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        told: set[str] = set()
        try:
            while process.poll() is None and time.monotonic() < self._deadline + _GRACE_S:
                time.sleep(0.5)
                self._tell_new(folder, told)
        finally:
            _kill_group(process)
        self._tell_new(folder, told)
        if len(told) < len(names):
            culprit = next(name for name in names if name not in told)
            self._tell({culprit: _early_end(read_report(folder)[1].get(culprit, {}), process.returncode)})
            told.add(culprit)
        return told

    def _tell_new(self, folder: Path, told: set[str]) -> None:
        _, results = read_report(folder)
        new = {n: r for n, r in results.items() if n not in told and r["status"] != RUNNING}
        if new:
            self._tell(new)
            told.update(new)

    def _tell(self, results: dict[str, Result]) -> None:
        with self._lock:
            self._found(results)


def read_report(folder: Path) -> tuple[dict[str, Any], dict[str, Result]]:
    """The machine and the results written so far; a check that has begun is `RUNNING`."""
    try:
        report = json.loads((folder / "gpu_checks.json").read_text())
    except FileNotFoundError:
        return {}, {}
    return report["machine"], report["checks"]


def _early_end(begun: Result, status: int) -> Result:
    """What a check is that its process did not outlive."""
    seconds, limit = time.time() - begun.get("began", time.time()), begun.get("limit_s", float("inf"))
    reason = f"the process ended with status {status}"
    if seconds >= limit:
        reason = f"not finished after {limit:.0f} s"
    return {"status": "failed", "reason": reason, "figures": {}, "seconds": round(min(seconds, limit), 3)}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, compilers too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
