"""Heavy libraries stay out of processes that have no use for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mgd3_fast.cli import main

NETWORKS = {"torch", "numpy"}
IMAGES = NETWORKS | {"PIL"}
# torch._dynamo is half of what diffusers takes to import
HEAVY = IMAGES | {
    "torch._dynamo",
    "diffusers",
    "transformers",
    "sklearn",
    "scipy",
    "mlxtend",
    "triton",
    "onnx",
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
def test_what_is_there_already_is_not_imported_for(
    tiny_generator: Path, pictures: Path, tmp_path: Path
) -> None:
    """Digests are of the files: an autoencoder is built to encode and decode, K-means to find modes."""
    sources = ["--dataset", str(pictures), "--generator", str(tiny_generator), "--device", "cpu", "--quiet"]
    lines = [
        ["distill", *sources, "--ipc", "2", "--out", str(tmp_path / "run")],
        ["encode", *sources],
        ["discover", *sources, "--ipc", "2", "--out", str(tmp_path / "modes")],
    ]
    for line in lines:
        assert main(line) == 0
    assert "sklearn" in sys.modules
    assert loaded(commands(*lines)) == IMAGES
