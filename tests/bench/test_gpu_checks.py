"""The GPU checks run from end to end in Triton's interpreter, and can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import checks
from bench.gpu import processes as processes_of_checks
from bench.gpu.figures import screen
from bench.gpu.plan import QUIET, one_by_one, side_by_side
from bench.gpu.processes import CheckProcesses

PAGE = Path(__file__).parent.parent.parent / "bench/GPU_CHECKS.md"


def run_checks(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "bench.gpu.checks", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_rehearsal_on_the_cpu(tmp_path: Path) -> None:
    result = run_checks("--device", "cpu", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "gpu_checks.json").read_text())
    assert {"device", "torch", "triton", "python", "commit", "when"} <= set(report["machine"])
    statuses = {name: check["status"] for name, check in report["checks"].items()}
    assert statuses.pop("launches") == "skipped"
    assert statuses.pop("kmeans-cuml") == "skipped"
    assert set(statuses.values()) == {"passed"}
    documented = PAGE.read_text()
    assert [name for name in report["checks"] if f"| {name} |" not in documented] == []
    alone = {name for name, check in report["checks"].items() if check["alone_on_the_gpu"]}
    assert alone == set(QUIET)
    table = result.stdout.splitlines()[-len(statuses) - 4 :]
    assert table[0].split() == ["check", "status", "s", "goal", "figure"]
    assert any(line.startswith("philox-integers") and "0 words differ" in line for line in table)
    assert table[-1] == f"{len(statuses)} passed, 2 skipped"


FAKES = """
import os, sys, time
from bench.gpu import checks as gpu_checks
gpu_checks.all_checks = lambda: {
    "sound": lambda setting: {"seen": 1},
    "crashing": lambda setting: os._exit(3),
    "hanging": lambda setting: time.sleep(600),
    "later": lambda setting: {"seen": 2},
}
sys.exit(gpu_checks.main())
"""


def test_a_check_that_crashes_or_hangs_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setattr(processes_of_checks, "CHECKS", "fakes")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    found: dict[str, dict[str, Any]] = {}
    arguments = ["--device", "cpu", "--limit-s", "1"]
    processes = CheckProcesses(arguments, tmp_path, time.monotonic() + 300, found.update)
    processes.run_beside(["sound", "crashing", "hanging", "later"], 2, together=True)
    assert [found[name]["status"] for name in ("sound", "crashing", "hanging", "later")] == [
        "passed",
        "failed",
        "failed",
        "passed",
    ]
    assert found["crashing"]["reason"] == "the process ended with status 3"
    assert found["hanging"]["reason"] == "not finished after 1 s"
    assert found["later"]["figures"] == {"seen": 2}
    lines = screen({name: found[name] for name in ("sound", "crashing", "hanging", "later")}).splitlines()
    assert lines[-1] == "2 passed, 2 failed"
    assert "seen 2" in lines[-2]
    assert "the process ended with status 3" in lines[2]


def test_nothing_starts_after_the_budget(tmp_path: Path) -> None:
    found: dict[str, dict[str, Any]] = {}
    CheckProcesses([], tmp_path, time.monotonic(), found.update).run_in_turn(["philox-integers", "normals"])
    assert found == {name: {"status": "not reached"} for name in ("philox-integers", "normals")}
    assert not list(tmp_path.iterdir())


def test_two_parts_run_every_check_once() -> None:
    names = [*QUIET, "philox-integers"]
    parts = [one_by_one(names, part) + side_by_side(names, part) for part in (1, 2)]
    assert sorted(parts[0] + parts[1]) == sorted(names)
    assert "philox-integers" in parts[0]
    assert sorted(one_by_one(names, None) + side_by_side(names, None)) == sorted(names)


def test_part_2_adds_to_part_1_of_the_same_code_alone(tmp_path: Path) -> None:
    machine = {"device": "a card", "commit": "0123", "when": "then"}
    checks.Report(tmp_path, machine, {}).add({"normals": {"status": "passed"}})
    again = machine | {"when": "now"}
    assert checks.results_of_part_1(tmp_path, again) == {"normals": {"status": "passed"}}
    assert checks.results_of_part_1(tmp_path, again | {"commit": "4567"}) == {}
    assert checks.results_of_part_1(tmp_path / "none", again) == {}


def test_a_figure_out_of_bounds_fails(tmp_path: Path) -> None:
    code = """
import sys
from bench.gpu import checks, kernel_checks
kernel_checks.NORMAL_ULP_BOUND = 0.1
sys.argv[1:] = ["--device", "cpu", "--only", "normals", "--out", sys.argv[1]]
sys.exit(checks.main())
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TRITON_INTERPRET": "1",
    }
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    failed = json.loads((tmp_path / "gpu_checks.json").read_text())["checks"]["normals"]
    assert failed["status"] == "failed"
    assert "beyond 0.1 ulp" in failed["reason"]
    assert failed["figures"]["max_error_ulp_of_radius"] > 0.1


def test_unknown_check(tmp_path: Path) -> None:
    result = run_checks("--device", "cpu", "--only", "speed", "--out", str(tmp_path))
    assert result.returncode == 2
    assert "--only must name checks of philox-integers" in result.stderr
    assert not list(tmp_path.iterdir())
