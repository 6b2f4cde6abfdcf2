"""Heavy libraries stay out of processes that have no use for them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mgd3_fast.cli import process

NETWORKS = {"torch", "numpy", "tqdm"}
IMAGES = NETWORKS | {"PIL"}
HEAVY = IMAGES | {
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
    "triton",
    "onnx",
    "onnxruntime",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "huggingface_hub",
    "datasets",
    "pandas",
    "pyarrow",
    "mlxtend",
    "sklearn",
    "scipy",
    "matplotlib",
}


def loaded(code: str) -> set[str]:
    """Run code in an interpreter of its own; returns the heavy libraries that it has imported at the end."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.splitlines()[-1].split())


def commands(*lines: list[str]) -> str:
    """Code that runs command lines one after another, and stops at the first that fails."""
    runs = [f"assert main({line!r}) == 0, {line!r}" for line in lines]
    return "\n".join(["from mgd3_fast.cli import COMMANDS, main", *runs])


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        pytest.param("from mgd3_fast import DistillConfig, UserError", set(), id="configuration"),
        pytest.param("from mgd3_engine import GuidedSampler, ModeGuidance", NETWORKS, id="engine"),
    ],
)
def test_imports(code: str, needed: set[str]) -> None:
    assert loaded(code) == needed


def test_help_of_every_command() -> None:
    every = "for command in COMMANDS:\n    assert main([command, '--help']) == 0"
    assert loaded(f"{commands(['--help'], ['--version'])}\n{every}") == set()


@pytest.mark.usefixtures("cache")
def test_real_runs(tiny_generator: Path, pictures: Path, tmp_path: Path) -> None:
    """scikit-learn comes with the clustering, and where everything is there already it does not come."""
    sources = ["--dataset", str(pictures), "--generator", str(tiny_generator), "--device", "cpu", "--quiet"]
    distill = ["distill", *sources, "--ipc", "2", "--out", str(tmp_path / "run")]
    discover = ["discover", *sources, "--ipc", "2", "--out", str(tmp_path / "modes")]
    assert loaded(commands(["encode", *sources])) == IMAGES
    clustering = loaded(commands(distill, discover)) - IMAGES
    assert {"sklearn"} <= clustering <= {"sklearn", "scipy", "pandas", "pyarrow"}  # as scikit-learn likes
    assert loaded(commands(["encode", *sources], distill, discover)) == IMAGES


def test_collection_goes_on_after_imports() -> None:
    """Imports of a command are left out of garbage collection; what a failed import leaves is not."""
    code = """
import gc
from mgd3_fast.cli.process import loading

try:
    with loading():
        raise ImportError
except ImportError:
    pass
assert gc.isenabled() and gc.get_freeze_count() == 0
with loading():
    assert not gc.isenabled()
    import mgd3_fast.modes
frozen = gc.get_freeze_count()
assert gc.isenabled() and frozen > 100_000, frozen
with loading():
    assert gc.isenabled()
assert gc.get_freeze_count() == frozen
"""
    assert loaded(code) >= NETWORKS


@pytest.mark.parametrize(
    ("allowed", "given", "told"),
    [
        pytest.param(2, {}, {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "2"}, id="container of two"),
        pytest.param(4, {}, {"GOMP_SPINCOUNT": "1000"}, id="all processors"),
        pytest.param(2, {"OMP_NUM_THREADS": "3"}, {"GOMP_SPINCOUNT": "1000"}, id="threads given"),
        pytest.param(4, {"OMP_WAIT_POLICY": "active"}, {}, id="waiting given"),
        pytest.param(4, {"GOMP_SPINCOUNT": "9"}, {}, id="spins given"),
    ],
)
def test_threads_are_as_many_as_may_run_and_do_not_spin(
    monkeypatch: pytest.MonkeyPatch, allowed: int, given: dict[str, str], told: dict[str, str]
) -> None:
    environment = dict(given)
    monkeypatch.setattr(process, "usable_processors", lambda: allowed)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr("os.environ", environment)
    process.share_processors()
    assert environment == given | told


PAGE_FAULTS = """
import resource
import numpy as np
from mgd3_fast.cli.process import keep_freed_memory

def faults_of_layers():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        layers = [np.ones(3 * 2**20, np.uint8) for _ in range(8)]
        del layers
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults_of_layers()
keep_freed_memory()
print(before, faults_of_layers())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a rule of glibc's")
@pytest.mark.skipif(
    any(name.startswith(("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_")) for name in os.environ),
    reason="another rule is set",
)
def test_freed_memory_is_asked_for_once() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 4
