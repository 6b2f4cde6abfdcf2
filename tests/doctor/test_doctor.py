"""doctor finds out by trying, and says why something does not work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mgd3_engine import backend_names
from mgd3_engine.backends import compiled as compiled_backend
from mgd3_fast.cli import main
from mgd3_fast.doctor import machine as doctor
from mgd3_fast.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def only_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes seconds; one test does it."""
    monkeypatch.setattr(doctor, "backend_names", lambda: ("eager",))


@pytest.mark.usefixtures("only_eager")
def test_findings_are_json_with_a_reason_for_what_does_not_work(cache: Path) -> None:
    found = json.loads(json.dumps(doctor.examine()))
    assert found["packages"]["torch"] == torch.__version__
    assert found["backends"]["eager"]["works"]
    assert found["processor"]["usable_processors"] >= 1
    assert found["processor"]["memory_gib"] >= found["processor"]["available_memory_gib"] > 0
    assert found["cache"]["folder"] == str(cache)
    for tried in (found["kernels"], found["demo_model"], *found["backends"].values()):
        assert tried["works"] or tried["reason"]
    assert len(found["gpus"]) == torch.cuda.device_count()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.usefixtures("only_eager")
def test_without_a_gpu_the_kernels_are_named_as_unused() -> None:
    found = doctor.examine()
    assert found["device"] == "cpu"
    assert "no CUDA device" in found["kernels"]["reason"]


def test_a_missing_compiler_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_backend.shutil, "which", lambda name: None)
    tried = doctor._tried(lambda: doctor._try_backend("compiled", torch.device("cpu")))
    assert not tried["works"]
    assert "C++ compiler" in tried["reason"]


def test_compiled_backend_works_where_there_is_a_compiler() -> None:
    assert "compiled" in backend_names()
    tried = doctor._tried(lambda: doctor._try_backend("compiled", torch.device("cpu")))
    if doctor._processor()["cpp_compiler"]:
        assert tried["works"], tried
    else:
        assert "C++ compiler" in tried["reason"]


def test_backends_that_take_only_a_dit_are_tried_with_one() -> None:
    pytest.importorskip("onnxruntime")
    tried = {
        name: doctor._tried(lambda name=name: doctor._try_backend(name, torch.device("cpu")))
        for name in doctor.DIT_BACKENDS
    }
    assert tried["onnxruntime"]["works"], tried
    assert "backend tensorrt needs a CUDA device" in tried["tensorrt"]["reason"]


def test_a_backend_with_wrong_results_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        compiled_backend,
        "create",
        lambda request: lambda x, timestep, class_ids: request.denoiser(x, timestep, class_ids) + 0.1,
    )
    tried = doctor._tried(lambda: doctor._try_backend("compiled", torch.device("cpu")))
    assert not tried["works"]
    assert "up to 1e-3" in tried["reason"]


def test_cache_size_counts_files(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MGD3_CACHE", str(tmp_path / "empty" / "still"))
    assert doctor._cache()["files"] == 0
    (tmp_path / "empty" / "still" / "latents").mkdir(parents=True)
    (tmp_path / "empty" / "still" / "latents" / "a").write_bytes(bytes(2**21))
    assert doctor._cache()["files"] == 1
    assert doctor._cache()["size_gib"] == pytest.approx(2**21 / 2**30, abs=5e-4)


def test_a_damaged_demo_model_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(name: str) -> Any:
        raise UserError("dit.safetensors is damaged: it is half a file")

    monkeypatch.setattr(doctor, "load_generator", damaged)
    assert doctor._tried(doctor._try_demo_model) == {
        "works": False,
        "reason": "dit.safetensors is damaged: it is half a file",
    }


@pytest.mark.usefixtures("only_eager")
def test_command_prints_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quiet"]) == 0
    shown = capsys.readouterr().out
    for word in ("python 3", "processor:", "backend eager: works", "demo model:", "cache:", "hub:"):
        assert word in shown
    assert main(["doctor", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backends"]["eager"]["works"]
