"""Workers do every unit, whoever dies meanwhile, and end with whoever asked."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.devices import worker_devices
from mgd3_fast.errors import UserError
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.workers import WorkerError, Workers, open_workers
from mgd3_fast.workers.local import LocalWorkers
from mgd3_fast.workers.telling import Hearing, Told
from tests.fakes.units import answering


def two(progress: Progress = SILENT) -> Workers:
    return open_workers(2, answering, progress, device="cpu")


def test_one_worker_is_this_process_and_finishes_units_in_order() -> None:
    with open_workers("auto", answering, SILENT, device="cpu") as workers:
        assert workers.count == 1
        done = list(workers.do([("say", value) for value in range(3)]))
    assert [result for _, result in done] == [(value, 1, "cpu", os.getpid()) for value in range(3)]


def test_two_processes_do_all_units_stage_after_stage() -> None:
    told = io.StringIO()
    with two(Progress(stream=told)) as workers:
        first = list(workers.do([("say", 0)]))
        units = [("count", 1)] * 6
        second = list(workers.do(units))
    assert first[0][1][1] == 1  # no second process for one unit
    assert [unit for unit, _ in second] == units
    assert {result[1] for _, result in second} == {1, 2}
    assert os.getpid() not in {result[3] for _, result in second}
    assert told.getvalue().splitlines().count("set up") == 1
    assert sum(line.startswith("count: 1/1 thing") for line in told.getvalue().splitlines()) == 6


def test_bars_of_several_workers_are_one() -> None:
    told = io.StringIO()
    with two(Progress(stream=told)) as workers:
        done = list(workers.do([("count", 2)] * 6, joined=("count", 20)))
    assert len(done) == 6
    (line,) = (line for line in told.getvalue().splitlines() if line.startswith("count"))
    assert line.startswith("count: 12/20 thing")


def test_what_a_dead_worker_counted_is_counted_again() -> None:
    told = io.StringIO()
    hearing = Hearing(Progress(stream=told))
    with hearing.joined("count", 10):
        for worker in (1, 2):
            hearing.hear(worker, Told("open", "count", {"total": 5, "unit": "thing", "initial": 1}))
            hearing.hear(worker, Told("advance", "count", 3))
        hearing.forget(2)
    assert told.getvalue().startswith("count: 4/10 thing")


def test_a_killed_worker_is_named_and_its_unit_is_done_by_another(tmp_path: Path) -> None:
    told = io.StringIO()
    units = [("die once", str(tmp_path / "1")), ("die once", str(tmp_path / "2"))]
    with two(Progress(stream=told)) as workers:
        assert {unit for unit, _ in workers.do(units)} == set(units)
    how = "was killed by SIGKILL (as the system does where memory is short)"
    assert f"worker 1 on cpu {how}; {units[0]} is begun again" in told.getvalue().splitlines()
    assert f"worker 2 on cpu {how}; {units[1]} is begun again" in told.getvalue().splitlines()


def test_a_unit_that_kills_three_workers_is_given_up_with_what_they_said() -> None:
    with two() as workers, pytest.raises(UserError) as raised:
        list(workers.do([("say", 1), ("exit", 7), ("say", 2)]))
    assert str(raised.value).startswith("('exit', 7) was given up after 3 tries: worker ")
    assert str(raised.value).endswith(" on cpu ended with status 7, having said: no more paper")


def test_what_a_unit_raises_is_raised_at_once() -> None:
    with two() as workers, pytest.raises(UserError, match="value must be another, got 5"):
        list(workers.do([("refuse", 5)]))
    with two() as workers, pytest.raises(WorkerError, match=r"(?s)in _break\n.*KeyError: 'x'"):
        list(workers.do([("break", "x")]))


DRIVER = """
import signal
from mgd3_fast.progress import SILENT
from mgd3_fast.workers import open_workers
from tests.fakes.units import answering

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
with open_workers(2, answering, SILENT, device="cpu") as workers:
    pids = {result[3] for _, result in workers.do([("sleep", 0.2), ("sleep", 0.2)])}
    print(*pids, flush=True)
    list(workers.do([("sleep", 60), ("hold", 60)]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver_in_the_middle_of_a_unit(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert driver.stdout is not None
    pids = [int(word) for word in driver.stdout.readline().split()]
    assert len(pids) == 2
    driver.send_signal(number)
    driver.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_idle_workers_end_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELL_END", str(tmp_path))
    with two() as workers:
        list(workers.do([("sleep", 0.1), ("sleep", 0.1)]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("workers", "device", "environment", "expected"),
    [
        ("auto", "auto", {}, ["cuda:0", "cuda:1"]),
        ("auto", "cuda:1", {}, ["cuda:1"]),
        ("auto", "cpu", {}, ["cpu"]),
        ("auto", "auto", {"LOCAL_WORLD_SIZE": "2"}, ["auto"]),
        ("auto", "auto", {"SLURM_STEP_NUM_TASKS": "2"}, ["auto"]),
        (1, "auto", {}, ["auto"]),
        (3, "auto", {}, ["cuda:0", "cuda:1", "cuda:0"]),
        (2, "cpu", {}, ["cpu", "cpu"]),
    ],
)
def test_devices_of_a_machine_of_two_gpus(
    workers: Any,
    device: str,
    environment: dict[str, str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name in ("LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert worker_devices(workers, device) == expected


def test_processors_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    from mgd3_fast.workers import local

    monkeypatch.setattr(local, "usable_processors", lambda: 9)
    for given, threads in (("", "2"), ("1", "1"), ("16", "2")):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        environment = local._environment(4)
        assert (environment["OMP_NUM_THREADS"], environment["LOKY_MAX_CPU_COUNT"]) == (threads, "2")
    assert LocalWorkers(answering, ["cpu"] * 4, SILENT).count == 4
