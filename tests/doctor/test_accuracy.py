"""The report of backends and precisions: every pair is there, and its figures are what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mgd3_engine.backends import eager as eager_backend
from mgd3_engine.dit.float8 import missing_float8
from mgd3_fast.cli import main
from mgd3_fast.devices import resolve_precision
from mgd3_fast.doctor import accuracy
from mgd3_fast.doctor.accuracy import measure_accuracy

pytestmark = pytest.mark.usefixtures("cache", "one_thread")

CPU, IMAGES = torch.device("cpu"), 8
# Final latents of the demo model after 50 guided steps against float32, relative root mean square. Measured:
# bf16 8.2e-3, fp8 5.1e-2.
BOUND = {"bf16": 2e-2, "fp8": 8e-2}
# A tiny random DiT, 4 steps, float32. Measured: 1.0e-6.
ONNXRUNTIME_BOUND = 5e-6


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Report some backends and precisions only, once each; compiling takes long."""

    def choose(backends: tuple[str, ...], *precisions: str) -> None:
        monkeypatch.setattr(accuracy, "backend_names", lambda: backends)
        monkeypatch.setattr(accuracy, "PRECISIONS", ("auto", *precisions))
        monkeypatch.setattr(accuracy, "ROUNDS", 1)
        monkeypatch.setattr(accuracy, "IMAGES_CPU", IMAGES)

    return choose


def results_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{one['backend']} {one['precision']}": one for one in found["results"]}


def test_every_pair_is_listed_with_figures_or_a_reason(
    pairs: Callable[..., None], tiny_generator: Path
) -> None:
    pairs(("eager", "tensorrt"), "fp32", "bf16", "fp8")
    found = json.loads(json.dumps(measure_accuracy(str(tiny_generator), device="cpu")))
    assert (found["generator"], found["device"], found["steps"]) == ("tiny", "cpu", 4)
    assert (found["images"], found["reference"]) == (IMAGES, "eager fp32")
    results = results_of(found)
    assert list(results) == [f"{b} {p}" for b in ("eager", "tensorrt") for p in ("fp32", "bf16", "fp8")]
    assert [name for name, one in results.items() if one["works"]] == ["eager fp32", "eager bf16"]
    assert results["eager fp32"]["relative_rms"] == results["eager fp32"]["largest"] == 0.0
    half = results["eager bf16"]
    assert 0 < half["relative_rms"] < half["largest"]
    assert half["images_per_s"] > 0
    assert half["speedup"] > 0
    assert half["prepared_s"] >= 0
    assert "needs a GPU of capability 8.9 or later" in results["eager fp8"]["reason"]
    assert "needs a CUDA device" in results["tensorrt bf16"]["reason"]
    assert "precision must be fp32, bf16 or fp16 for backend tensorrt" in results["tensorrt fp8"]["reason"]


def test_a_backend_that_computes_something_else_shows(
    pairs: Callable[..., None], tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs(("compiled",), "fp32")

    def create(request: Any) -> Any:
        def off(x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
            output: Tensor = request.denoiser(x, timestep, class_ids)
            return output * 1.1

        return off

    monkeypatch.setattr("mgd3_engine.backends.compiled.create", create)
    found = results_of(measure_accuracy(str(tiny_generator), device="cpu"))
    assert found["compiled fp32"]["relative_rms"] > 1e-3


def test_a_backend_that_breaks_is_a_finding(
    pairs: Callable[..., None], tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(request: Any) -> Any:
        if request.dtype == torch.bfloat16:
            raise RuntimeError("a library gave up\nwith a long story")
        return request.denoiser

    pairs(("eager",), "fp32", "bf16")
    monkeypatch.setattr(eager_backend, "create", broken)
    found = results_of(measure_accuracy(str(tiny_generator), device="cpu"))
    assert found["eager fp32"]["works"]
    assert found["eager bf16"]["reason"] == "a library gave up"


def test_bounds_of_the_demo_model(pairs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """fp8 is computed on the CPU here, which the command line refuses because it is slow."""
    pairs(("eager",), "bf16", "fp8")
    if not missing_float8(CPU):
        monkeypatch.setattr(
            accuracy,
            "resolve_precision",
            lambda name, device: name if name == "fp8" else resolve_precision(name, device),
        )
    found = results_of(measure_accuracy(device="cpu"))
    errors = {name: found[f"eager {name}"]["relative_rms"] for name in ("bf16", "fp8")}
    print(errors)
    assert 1e-3 < errors["bf16"] < BOUND["bf16"]
    if missing_float8(CPU):
        assert not found["eager fp8"]["works"]
    else:
        assert errors["bf16"] < errors["fp8"] < BOUND["fp8"]


def test_onnxruntime_is_float32_eager(pairs: Callable[..., None], tiny_generator: Path) -> None:
    pytest.importorskip("onnxruntime")
    pairs(("onnxruntime",), "fp32")
    (found,) = measure_accuracy(str(tiny_generator), device="cpu")["results"]
    assert 0 < found["relative_rms"] < ONNXRUNTIME_BOUND, found


def test_command_prints_a_table_or_json(
    pairs: Callable[..., None], tiny_generator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs(("eager",), "fp32", "fp8")
    command = ["doctor", "--accuracy", "--generator", str(tiny_generator)]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "eager fp32: relative rms 0.0e+00" in printed.err
    head, columns, eager, eight = printed.out.splitlines()
    assert head.startswith("tiny on ")
    assert columns.split()[:3] == ["backend", "precision", "rms"]
    assert eager.split()[:4] == ["eager", "fp32", "0.0e+00", "0.0e+00"]
    assert (
        eight.startswith("eager        fp8       does not run: precision must be")
        or torch.cuda.is_available()
    )
    assert main([*command, "--quiet", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["results"][0]["backend"] == "eager"
    assert printed.err == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--generator", "demo-mnist5k"], "generator must be given with --accuracy only, got 'demo-mnist5k'"),
        (["--accuracy", "--generator", "no-such"], "generator must be auto, demo-mnist5k"),
    ],
    ids=["without accuracy", "unknown"],
)
def test_mistakes_are_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *options, "--quiet"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
