"""The GPU checks run from end to end in Triton's interpreter, and can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"
SCRIPT = BENCH / "gpu_checks.py"


def run_checks(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, str(SCRIPT), *arguments]
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
    documented = (BENCH / "GPU_CHECKS.md").read_text()
    assert [name for name in report["checks"] if f"| {name} |" not in documented] == []


def test_a_figure_out_of_bounds_fails(tmp_path: Path) -> None:
    code = """
import sys, runpy, kernel_checks
kernel_checks.NORMAL_ULP_BOUND = 0.1
sys.argv = [sys.argv[1], "--device", "cpu", "--only", "normals", "--out", sys.argv[2]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(BENCH), *sys.path]),
        "TRITON_INTERPRET": "1",
    }
    command = [sys.executable, "-c", code, str(SCRIPT), str(tmp_path)]
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
