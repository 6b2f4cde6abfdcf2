"""The ONNX graph of a DiT: equal to the network, typed as it says, complete or not there."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mgd3_engine.dit import DiT, DiTConfig, dit_config
from mgd3_engine.export import PRECISIONS, cached_onnx, export_onnx, graph_path, identify, require_dit
from mgd3_engine.export.onnx_graph import EXTERNAL_DATA_ABOVE, data_file, weights_bytes
from mgd3_engine.installing import install_command
from tests.fakes.random_networks import dit_inputs, random_dit

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CONFIG = DiTConfig(input_size=8, patch_size=2, hidden_size=32, depth=1, num_heads=2, num_classes=10)
ROWS = (1, 2, 5, 16)
# Largest difference from the float32 network, whose outputs have a deviation of 0.46. Measured on the CPU:
# fp32 8.0e-7 and fp16 8.5e-4 in ONNX Runtime, bf16 1.8e-2 in ONNX's reference evaluator.
BOUNDS = {"fp32": 4e-6, "fp16": 4e-3, "bf16": 6e-2}
PROTOBUF_LIMIT = 2**31


@pytest.fixture(scope="module")
def graphs(cache_of_session: Path) -> dict[str, Path]:
    """The same weights in every number format; exporting takes seconds, other test files share them."""
    return {
        name: cached_onnx(random_dit(CONFIG).to(dtype), cache_of_session)
        for name, dtype in PRECISIONS.items()
    }


class Traced:
    """A program whose saving writes what it is told, in place of torch's."""

    def __init__(self, contents: bytes) -> None:
        self.model = SimpleNamespace(metadata_props={})
        self._contents = contents

    def save(self, path: str, external_data: bool | None) -> None:
        Path(path).write_bytes(self._contents)


def run(path: Path, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fed = {"x": x.numpy(), "timestep": timestep.numpy(), "class_ids": class_ids.numpy()}
    return torch.from_numpy(session.run(None, fed)[0])


def evaluate(path: Path, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
    """ONNX's reference evaluator, for what ONNX Runtime has no kernels of on a CPU."""
    import ml_dtypes
    from onnx.reference import ReferenceEvaluator

    numbers = x.float().numpy().astype(ml_dtypes.bfloat16)
    fed = {"x": numbers, "timestep": timestep.numpy(), "class_ids": class_ids.numpy()}
    output = ReferenceEvaluator(str(path)).run(None, fed)[0]
    assert output.dtype == ml_dtypes.bfloat16
    return torch.from_numpy(output.astype(np.float32))


def value_types(model: Any) -> dict[str, int]:
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    types = {one.name: one.type.tensor_type.elem_type for one in values}
    return types | {one.name: one.data_type for one in model.graph.initializer}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_graph_is_the_network_whatever_the_rows(graphs: dict[str, Path], precision: str, rows: int) -> None:
    x, timestep, class_ids = dit_inputs(CONFIG, rows)
    output = run(graphs[precision], x.to(PRECISIONS[precision]), timestep, class_ids)
    assert output.dtype == PRECISIONS[precision]
    error = float((output.float() - random_dit(CONFIG)(x, timestep, class_ids)).abs().max())
    print(f"{precision}, {rows} rows: {error:.1e}")
    assert error < BOUNDS[precision]


def test_bfloat16_graph_is_the_network(graphs: dict[str, Path]) -> None:
    x, timestep, class_ids = dit_inputs(CONFIG, 4)
    output = evaluate(graphs["bf16"], x, timestep, class_ids)
    error = float((output - random_dit(CONFIG)(x, timestep, class_ids)).abs().max())
    print(f"bf16: {error:.1e}")
    assert error < BOUNDS["bf16"]


def test_neighbouring_timesteps_differ_in_bfloat16(graphs: dict[str, Path]) -> None:
    """750 and 752 are one number in bfloat16."""
    x, _, class_ids = (one[:1].repeat_interleave(2, dim=0) for one in dit_inputs(CONFIG, 1))
    output = evaluate(graphs["bf16"], x, torch.tensor([750, 752]), class_ids)
    assert not torch.equal(output[0], output[1])
    assert torch.equal(output, evaluate(graphs["bf16"], x, torch.tensor([750, 752]), class_ids))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_types_are_the_stated_ones(graphs: dict[str, Path], precision: str) -> None:
    own = {
        "fp32": onnx.TensorProto.FLOAT,
        "fp16": onnx.TensorProto.FLOAT16,
        "bf16": onnx.TensorProto.BFLOAT16,
    }
    model = onnx.load(str(graphs[precision]))
    onnx.checker.check_model(model, full_check=True)
    types = value_types(model)
    assert (types["x"], types["output"]) == (own[precision],) * 2
    assert types["timestep"] == types["class_ids"] == onnx.TensorProto.INT64
    seen = set()
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "LayerNormalization", "Softmax", "Gelu"):
            assert {types[name] for name in (*node.input, *node.output)} == {own[precision]}, node.name
        if node.op_type in ("Cos", "Sin"):
            assert {types[name] for name in (*node.input, *node.output)} == {onnx.TensorProto.FLOAT}
        seen.add(node.op_type)
    assert {"MatMul", "Gemm", "Cos", "Sin"} <= seen


def test_graph_says_what_it_was_made_of(graphs: dict[str, Path]) -> None:
    model = onnx.load(str(graphs["fp16"]))
    stated = {one.key.removeprefix("mgd3_fast."): one.value for one in model.metadata_props}
    identity = identify(random_dit(CONFIG).half())
    assert stated["weights"] == identity.digest
    assert stated["precision"] == identity.precision == "fp16"
    assert json.loads(stated["dit"]) == asdict(CONFIG)
    assert stated["version"] == model.producer_version == version("mgd3-fast")


def test_large_weights_lie_beside_the_graph(tmp_path: Path) -> None:
    dit, path = random_dit(CONFIG), tmp_path / "large.onnx"
    assert export_onnx(dit, path, external_data_above=weights_bytes(dit) - 1) == (path, data_file(path))
    assert sorted(tmp_path.iterdir()) == [path, data_file(path)]
    trained = weights_bytes(dit) - dit.pos_embed.nbytes
    assert data_file(path).stat().st_size >= trained > path.stat().st_size
    onnx.checker.check_model(str(path), full_check=True)
    inputs = dit_inputs(CONFIG, 3)
    assert float((run(path, *inputs) - dit(*inputs)).abs().max()) < BOUNDS["fp32"]
    path.rename(tmp_path / "moved.onnx")  # the graph finds its weights by their name
    data_file(path).unlink()
    with pytest.raises(Exception, match=data_file(path).name):
        run(tmp_path / "moved.onnx", *inputs)


@pytest.mark.parametrize(
    ("name", "dtype", "external"),
    [
        pytest.param("DiT-XL/2", torch.float32, True, id="XL fp32 is above what protobuf holds"),
        pytest.param("DiT-XL/2", torch.bfloat16, True, id="XL bf16"),
        pytest.param("DiT-S/2", torch.float32, False, id="S fp32"),
    ],
)
def test_published_sizes(name: str, dtype: torch.dtype, external: bool) -> None:
    with torch.device("meta"):
        size = weights_bytes(DiT(dit_config(name)).to(dtype))
    assert (size > EXTERNAL_DATA_ABOVE) == external
    assert EXTERNAL_DATA_ABOVE < PROTOBUF_LIMIT
    if dtype == torch.float32:
        assert (size > PROTOBUF_LIMIT) == external


def test_failed_export_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"an older one")

    def refuse(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mgd3_engine.export.onnx_graph._trace", lambda dit: Traced(b"half"))
    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(random_dit(CONFIG), path)
    assert [(one, one.read_bytes()) for one in tmp_path.iterdir()] == [(path, b"an older one")]


def test_cache_holds_a_graph_per_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(dit: DiT, path: Path, **_: Any) -> None:
        made.append(path)
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr("mgd3_engine.export.onnx_graph.export_onnx", make)
    networks = [random_dit(CONFIG), random_dit(CONFIG, seed=1), random_dit(CONFIG).half()]
    paths = [cached_onnx(dit, tmp_path) for dit in networks]
    assert paths == made
    assert len(set(paths)) == 3
    assert [cached_onnx(dit, tmp_path) for dit in networks] == paths == made
    monkeypatch.setattr("mgd3_engine.export.onnx_graph.installed_version", lambda package: "0")
    assert graph_path(identify(networks[0]), tmp_path) not in paths


def test_graph_lies_in_the_callers_folder(tmp_path: Path) -> None:
    assert graph_path(identify(random_dit(CONFIG)), tmp_path).parent == tmp_path / "onnx"


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=rf"onnxscript is missing\): {re.escape(install_command('onnx'))}"):
        export_onnx(random_dit(CONFIG), tmp_path / "graph.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: torch.tanh, "must be a mgd3_engine.dit.DiT for export, got a", id="function"),
        pytest.param(
            lambda: random_dit(CONFIG).half(),
            "must have all its weights in torch.float32 for export, got also torch.float16",
            id="another dtype",
        ),
    ],
)
def test_only_a_dit_of_one_dtype_is_exported(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        require_dit(make(), torch.float32, "export")


@pytest.mark.gpu
def test_network_on_a_gpu_is_exported_as_on_the_cpu(tmp_path: Path) -> None:
    assert identify(random_dit(CONFIG).cuda()) == identify(random_dit(CONFIG))
    export_onnx(random_dit(CONFIG).cuda(), tmp_path / "graph.onnx")
    inputs = dit_inputs(CONFIG, 3)
    error = (run(tmp_path / "graph.onnx", *inputs) - random_dit(CONFIG)(*inputs)).abs().max()
    assert float(error) < BOUNDS["fp32"]
