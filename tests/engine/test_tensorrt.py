"""TensorRT engines: built ahead of time on this machine, refused where they do not fit, run by address."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mgd3_engine.backends import BackendRequest, create_backend
from mgd3_engine.backends import tensorrt as backend
from mgd3_engine.dit import DiTConfig
from mgd3_engine.export import NetworkIdentity, cached_onnx, identify
from mgd3_engine.installing import install_command
from mgd3_engine.tensorrt import (
    EngineDescription,
    EngineFile,
    EngineTarget,
    Flavour,
    RowRange,
    check_capabilities,
    engine_folder,
    export_engine,
    find_engine,
    installed_flavour,
    load_flavour,
)
from mgd3_engine.tensorrt.building import build_engine
from mgd3_engine.tensorrt.engine_file import description_file, write_engine
from mgd3_engine.tensorrt.execution import LoadedEngine, TensorRTDenoiser
from tests.fakes.random_networks import dit_inputs, random_dit

CONFIG = DiTConfig(input_size=8, patch_size=2, hidden_size=32, depth=1, num_heads=2, num_classes=10)
CPU = torch.device("cpu")
TARGET = EngineTarget(
    flavour="tensorrt-rtx",
    version="1.7.0",
    weights="w" * 64,
    precision="bf16",
    rows=16,
    capability="8.9",
    gpu="NVIDIA L4",
)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    pytest.importorskip("tensorrt_rtx")
    return load_flavour("tensorrt-rtx")


@pytest.fixture(scope="module")
def built(rtx: Flavour, cache_of_session: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineFile:
    """An engine in bfloat16 for two kinds of GPU and 1 to 32 rows."""
    path = tmp_path_factory.mktemp("engines") / "tiny.engine"
    export_engine(
        random_dit(CONFIG).bfloat16(),
        path,
        rtx,
        RowRange(1, 16, 32),
        capabilities=("8.6", "8.9"),
        cache_dir=cache_of_session,
    )
    return EngineFile.open(path)


def target_of(engine: EngineFile, **changes: Any) -> EngineTarget:
    stated = engine.description
    fitting = replace(TARGET, version=stated.version, weights=stated.weights, precision=stated.precision)
    return replace(fitting, **changes)


def fake_engine(path: Path, **changes: Any) -> EngineDescription:
    """Write an engine for `TARGET` whose contents no library would take."""
    settings: dict[str, Any] = {
        "flavour": Flavour("tensorrt-rtx", SimpleNamespace(__version__="1.7.0")),
        "identity": NetworkIdentity(digest="w" * 64, precision="bf16", config=CONFIG),
        "rows": (1, 16, 32),
        "capabilities": ("8.6", "8.9"),
        "gpu": None,
    }
    return write_engine(path, b"engine", **{**settings, **changes})


def test_engine_is_built_without_a_gpu_for_others(built: EngineFile) -> None:
    description = built.description
    assert description.flavour == "tensorrt-rtx"
    assert description.capabilities == ("8.6", "8.9")
    assert description.rows == (1, 16, 32)
    assert description.gpu is None
    assert description.weights == identify(random_dit(CONFIG).bfloat16()).digest
    assert description.bytes == built.path.stat().st_size > 100_000
    assert sorted(built.path.parent.iterdir()) == [built.path, description_file(built.path)]
    assert len(built.read(target_of(built))) == description.bytes


def test_another_row_range_is_another_engine(rtx: Flavour, built: EngineFile, cache_of_session: Path) -> None:
    graph = cached_onnx(random_dit(CONFIG).bfloat16(), cache_of_session)
    fixed = memoryview(build_engine(rtx, graph, RowRange(8, 8, 8), ("8.9",)))
    assert 0 < fixed.nbytes < built.description.bytes


def test_weights_beside_the_graph_are_read(
    rtx: Flavour, cache_of_session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a network of more than 2 GiB: the parser finds the second file by the first one's path."""
    onnx = pytest.importorskip("onnx")
    inside = cached_onnx(random_dit(CONFIG).bfloat16(), cache_of_session)
    beside = tmp_path / "beside.onnx"
    onnx.save(onnx.load(str(inside)), str(beside), save_as_external_data=True, size_threshold=0)
    rows, capabilities = RowRange(1, 4, 8), ("8.9",)
    sizes = [memoryview(build_engine(rtx, graph, rows, capabilities)).nbytes for graph in (inside, beside)]
    assert sizes[0] == sizes[1]
    (weights,) = set(tmp_path.iterdir()) - {beside}
    weights.unlink()
    with pytest.raises(ValueError, match=r"tensorrt-rtx [\d.]+ cannot read .*beside.onnx") as refusal:
        build_engine(rtx, beside, rows, capabilities)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({}, "", id="fits"),
        pytest.param({"rows": 1}, "", id="fewest rows"),
        pytest.param({"rows": 33}, "must be for 33 rows, got 1 to 32", id="rows"),
        pytest.param(
            {"weights": "v" * 64}, "must be of weights vvvvvvvvvvvv, got wwwwwwwwwwww", id="weights"
        ),
        pytest.param({"precision": "fp16"}, "must be of precision fp16, got bf16", id="precision"),
        pytest.param(
            {"version": "1.8.0"}, "must be of tensorrt-rtx 1.8.0, got tensorrt-rtx 1.7.0", id="version"
        ),
        pytest.param(
            {"flavour": "tensorrt"}, "must be of tensorrt 1.7.0, got tensorrt-rtx 1.7.0", id="flavour"
        ),
        pytest.param(
            {"capability": "12.0", "gpu": "NVIDIA B"},
            "must be for compute capability 12.0 (NVIDIA B), got 8.6, 8.9",
            id="capability",
        ),
    ],
)
def test_engine_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "some.engine"
    description = fake_engine(path)
    target = replace(TARGET, **changes)
    assert description.refusal(target) == words
    if not words:
        assert EngineFile.open(path).read(target) == b"engine"
        return
    with pytest.raises(ValueError, match=r"some\.engine must be") as refusal:
        EngineFile.open(path).read(target)
    assert str(refusal.value) == f"engine {path} {words}"


def test_engine_for_one_model_of_gpu(tmp_path: Path) -> None:
    """TensorRT's own engines are for the model they were built on, not for its compute capability."""
    description = fake_engine(tmp_path / "own.engine", gpu="NVIDIA L4")
    assert description.refusal(TARGET) == ""
    other = replace(TARGET, gpu="NVIDIA L40S")
    assert description.refusal(other) == "must be for a NVIDIA L40S, got NVIDIA L4"


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "some.engine"
    fake_engine(path)
    path.write_bytes(b"enginf")
    with pytest.raises(ValueError, match="is damaged or another than its description says"):
        EngineFile.open(path).read(TARGET)
    described = json.loads(description_file(path).read_text())
    description_file(path).write_text(json.dumps({**described, "format": 2}))
    with pytest.raises(ValueError, match=r"format of .* must be 1, got 2"):
        EngineFile.open(path)
    del described["rows"]
    description_file(path).write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"some.engine.json must have format, .*rows"):
        EngineFile.open(path)
    description_file(path).unlink()
    with pytest.raises(FileNotFoundError):
        EngineFile.open(path)


def test_best_engine_of_the_cache_is_found(tmp_path: Path) -> None:
    assert find_engine(TARGET, tmp_path / "nowhere") is None
    fake_engine(tmp_path / "a.engine", rows=(1, 64, 64))
    fake_engine(tmp_path / "b.engine", rows=(1, 8, 32))
    fake_engine(tmp_path / "c.engine", rows=(1, 8, 8))
    fake_engine(tmp_path / "d.engine", capabilities=("12.0",))
    (tmp_path / "e.engine.json").write_text("{")
    found = find_engine(TARGET, tmp_path)
    assert found is not None
    assert found.path.name == "b.engine"
    fake_engine(tmp_path / "f.engine", rows=(1, 16, 256))
    tuned = find_engine(TARGET, tmp_path)
    assert tuned is not None
    assert tuned.path.name == "f.engine"
    assert find_engine(replace(TARGET, precision="fp16"), tmp_path) is None


def test_why_an_engine_is_passed_over_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake_engine(
        tmp_path / "old.engine", flavour=Flavour("tensorrt-rtx", SimpleNamespace(__version__="1.6.0"))
    )
    with caplog.at_level("INFO", logger="mgd3_engine.tensorrt"):
        assert find_engine(TARGET, tmp_path) is None
    (message,) = caplog.messages
    assert message.endswith("old.engine must be of tensorrt-rtx 1.7.0, got tensorrt-rtx 1.6.0")


@pytest.mark.parametrize("rows", [(0, 1, 2), (2, 1, 2), (1, 3, 2)], ids=str)
def test_impossible_row_ranges(rows: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="rows must be MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, got"):
        RowRange(*rows)


def test_unknown_capability_lists_the_known_ones(rtx: Flavour) -> None:
    assert {"8.6", "8.9", "12.0"} <= set(rtx.capabilities())
    with pytest.raises(ValueError, match=r"compute_capability must be of .*8\.6, 8\.9, .*got '9\.9'"):
        check_capabilities(rtx, ("8.9", "9.9"))


def test_a_graph_that_cannot_be_read_is_named(rtx: Flavour, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"cannot read .*damaged\.onnx: \S") as refusal:
        build_engine(rtx, tmp_path / "damaged.onnx", RowRange(1, 1, 1), ("8.9",))
    assert "\n" not in str(refusal.value)


def test_flavours_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"tensorrt": SimpleNamespace(__version__="10.12.0.36")}

    def load(name: str) -> Any:
        if name not in modules:
            raise ImportError(f"No module named {name!r}")
        return modules[name]

    monkeypatch.setattr("mgd3_engine.tensorrt.flavour.import_module", load)
    with pytest.raises(ValueError, match=r"tensorrt 10\.12\.0\.36 is too old: it must be 10\.13 or later"):
        load_flavour("tensorrt")
    with pytest.raises(
        ValueError, match=rf"tensorrt-rtx is not installed.*{re.escape(install_command('tensorrt-rtx'))}"
    ):
        load_flavour("tensorrt-rtx")
    with pytest.raises(ValueError, match="finds neither TensorRT nor TensorRT-RTX"):
        installed_flavour("8.9")
    members = {"NONE": 0, "CURRENT": 1, "SM86": 2, "SM89": 3, "SM120": 4}
    api = SimpleNamespace(__version__="1.7.0", ComputeCapability=SimpleNamespace(__members__=members))
    modules["tensorrt_rtx"] = api
    assert installed_flavour("12.0") == Flavour("tensorrt-rtx", api)
    with pytest.raises(
        ValueError, match=r"tensorrt-rtx knows capabilities 8\.6, 8\.9, 12\.0, and this GPU has 9\.0"
    ):
        installed_flavour("9.0")
    modules["tensorrt"] = SimpleNamespace(__version__="10.13.0.35")
    assert installed_flavour("12.0").name == "tensorrt"


@without_gpu
def test_without_a_gpu_the_backend_says_what_it_needs(tmp_path: Path) -> None:
    request = BackendRequest(denoiser=random_dit(CONFIG), device=CPU, dtype=torch.float32, rows=16)
    with pytest.raises(ValueError, match=r"backend tensorrt needs a CUDA device, got cpu; .*export") as error:
        create_backend("tensorrt", request)
    assert "\n" not in str(error.value)


@without_gpu
def test_without_a_gpu_only_named_ones_are_built_for(rtx: Flavour) -> None:
    with pytest.raises(ValueError, match="tensorrt-rtx has no GPU here to build for: give the"):
        check_capabilities(rtx, ())
    with pytest.raises(ValueError, match=r"tensorrt has no GPU here .* tensorrt-rtx builds without one"):
        check_capabilities(Flavour("tensorrt", None), ())
    with pytest.raises(ValueError, match=r"compute_capability must not be given for tensorrt, .* got 8\.9"):
        check_capabilities(Flavour("tensorrt", None), ("8.9",))


class RecordingContext:
    """Stands for TensorRT's execution context: keeps what it is told; "computes" through the addresses."""

    def __init__(self, engine: RecordingEngine) -> None:
        self.engine, self.shapes, self.addresses = engine, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= self.engine.most_rows

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.engine.calls.append((self, stream, dict(self.addresses)))
        return self.engine.accepts


class RecordingEngine:
    def __init__(self, most_rows: int = 32) -> None:
        self.most_rows, self.accepts = most_rows, True
        self.contexts: list[RecordingContext] = []
        self.calls: list[tuple[RecordingContext, int, dict[str, int]]] = []

    def make_context(self) -> RecordingContext:
        self.contexts.append(RecordingContext(self))
        return self.contexts[-1]

    def reason(self) -> str:
        return "out of memory"


class RecordingStreams:
    def __init__(self) -> None:
        self.handle, self.in_capture, self.log = 7, False, []

    @contextmanager
    def ordered(self) -> Iterator[int]:
        self.log.append("enter")
        yield self.handle
        self.log.append("leave")

    def capturing(self) -> bool:
        return self.in_capture

    def synchronize(self) -> None:
        self.log.append("synchronize")


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
def streams() -> RecordingStreams:
    return RecordingStreams()


@pytest.fixture
def denoiser(engine: RecordingEngine, streams: RecordingStreams) -> TensorRTDenoiser:
    identity = NetworkIdentity(digest="w", precision="bf16", config=CONFIG)
    return TensorRTDenoiser(engine, identity, CPU, streams)


def bf16_inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, timestep, class_ids = dit_inputs(CONFIG, rows)
    return x.bfloat16(), timestep, class_ids


def test_engine_gets_addresses_shapes_and_stream(denoiser: TensorRTDenoiser, engine: RecordingEngine) -> None:
    inputs = bf16_inputs(6)
    output = denoiser(*inputs)
    ((context, stream, addresses),) = engine.calls
    assert context.shapes == {"x": (6, 4, 8, 8), "timestep": (6,), "class_ids": (6,)}
    pointers = [one.data_ptr() for one in (*inputs, output)]
    assert addresses == dict(zip(("x", "timestep", "class_ids", "output"), pointers, strict=True))
    assert stream == 7
    assert (output.dtype, list(output.shape)) == (torch.bfloat16, [6, 8, 8, 8])


def test_first_call_of_a_shape_is_waited_for_and_only_it(
    denoiser: TensorRTDenoiser, streams: RecordingStreams
) -> None:
    denoiser(*bf16_inputs(6))
    assert streams.log == ["enter", "leave", "synchronize"]
    denoiser(*bf16_inputs(6))
    assert streams.log[3:] == ["enter", "leave"]
    denoiser(*bf16_inputs(4))
    assert streams.log[5:] == ["enter", "leave", "synchronize"]


def test_each_number_of_rows_has_a_context_of_its_own(
    denoiser: TensorRTDenoiser, engine: RecordingEngine
) -> None:
    for rows in (6, 4, 6, 4):
        denoiser(*bf16_inputs(rows))
    assert [context for context, *_ in engine.calls] == engine.contexts * 2
    assert [context.shapes["x"][0] for context in engine.contexts] == [6, 4]


def test_outputs_do_not_share_memory(denoiser: TensorRTDenoiser) -> None:
    inputs = bf16_inputs(6)
    first, second = denoiser(*inputs), denoiser(*inputs)
    assert first.data_ptr() != second.data_ptr()


def test_strided_inputs_are_copied(denoiser: TensorRTDenoiser, engine: RecordingEngine) -> None:
    x, timestep, class_ids = bf16_inputs(6)
    denoiser(x.permute(0, 1, 3, 2), timestep, class_ids)
    assert engine.calls[0][2]["x"] != x.data_ptr()
    assert engine.calls[0][2]["timestep"] == timestep.data_ptr()


def test_capture_before_the_first_call_is_an_error(
    denoiser: TensorRTDenoiser, engine: RecordingEngine, streams: RecordingStreams
) -> None:
    streams.in_capture = True
    with pytest.raises(RuntimeError, match="must have run once with 6 rows before it is captured"):
        denoiser(*bf16_inputs(6))
    assert not engine.calls
    streams.in_capture = False
    denoiser(*bf16_inputs(6))
    streams.in_capture, streams.handle = True, 9
    denoiser(*bf16_inputs(6))
    assert [stream for _, stream, _ in engine.calls] == [7, 9]
    assert streams.log.count("synchronize") == 1


@pytest.mark.parametrize("in_capture", [False, True], ids=["eager", "captured"])
def test_a_refused_call_is_an_error(
    denoiser: TensorRTDenoiser, engine: RecordingEngine, streams: RecordingStreams, in_capture: bool
) -> None:
    denoiser(*bf16_inputs(6))
    engine.accepts, streams.in_capture = False, in_capture
    with pytest.raises(RuntimeError, match="TensorRT does not enqueue the engine: out of memory"):
        denoiser(*bf16_inputs(6))


def test_a_refused_first_call_does_not_count(
    denoiser: TensorRTDenoiser, engine: RecordingEngine, streams: RecordingStreams
) -> None:
    engine.accepts = False
    with pytest.raises(RuntimeError, match="does not enqueue"):
        denoiser(*bf16_inputs(6))
    streams.in_capture = True
    with pytest.raises(RuntimeError, match="must have run once"):
        denoiser(*bf16_inputs(6))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            {"x": torch.zeros(6, 4, 8, 8)}, "x must be torch.bfloat16 .* got torch.float32", id="dtype"
        ),
        pytest.param(
            {"x": torch.zeros(6, 4, 8, 4).bfloat16()}, r"x must be .* got .*\[6, 4, 8, 4\]", id="latent"
        ),
        pytest.param({"timestep": torch.zeros(6)}, "timestep must be torch.int64", id="timestep dtype"),
        pytest.param({"class_ids": torch.zeros(5).long()}, r"class_ids must be .*\[6\]", id="class_ids rows"),
        pytest.param(
            {"x": torch.zeros(6, 4, 8, 8).bfloat16().requires_grad_()},
            "must not require a gradient",
            id="grad",
        ),
        pytest.param(
            {"x": torch.zeros(6, 4, 8, 8, device="meta").bfloat16()},
            "x must be .* on cpu .* on meta",
            id="device",
        ),
    ],
)
def test_what_an_address_cannot_tell_is_checked(
    denoiser: TensorRTDenoiser, engine: RecordingEngine, change: dict[str, torch.Tensor], words: str
) -> None:
    x, timestep, class_ids = bf16_inputs(6)
    with pytest.raises(ValueError, match=words):
        denoiser(**{"x": x, "timestep": timestep, "class_ids": class_ids, **change})
    assert not engine.calls


def test_rows_beyond_the_engines(denoiser: TensorRTDenoiser) -> None:
    with pytest.raises(ValueError, match="rows must be among those the engine was built for, got 33"):
        denoiser(*bf16_inputs(33))


def stand_in_library(name: str, asked: list[Any]) -> Flavour:
    """A library whose engines note how their contexts were made."""

    class Log:
        ERROR = 1

    class Engine:
        def create_runtime_config(self) -> Any:
            return SimpleNamespace(dynamic_shapes_kernel_specialization_strategy="lazy")

        def create_execution_context(self, *config: Any) -> str:
            asked.append([one.dynamic_shapes_kernel_specialization_strategy for one in config])
            return "context"

    api = SimpleNamespace(
        __version__="11.0.0",
        ILogger=Log,
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda serialised: Engine()),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    return Flavour(name, api)


@pytest.mark.parametrize(("name", "strategies"), [("tensorrt", []), ("tensorrt-rtx", ["eager"])])
def test_kernels_are_settled_before_the_first_call(
    monkeypatch: pytest.MonkeyPatch, name: str, strategies: list[str]
) -> None:
    """TensorRT-RTX would otherwise swap kernels in while it runs, at a moment that timing decides."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    asked: list[Any] = []
    assert LoadedEngine(stand_in_library(name, asked), b"", CPU).make_context() == "context"
    assert asked == [strategies]


@without_gpu
def test_what_the_library_says_of_an_engine_it_cannot_load(
    rtx: Flavour, built: EngineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    with pytest.raises(ValueError, match=r"tensorrt-rtx [\d.]+ cannot load the engine: .*CUDA") as refusal:
        LoadedEngine(rtx, built.path.read_bytes(), CPU)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, rtx: Flavour) -> list[Any]:
    """Let the backend believe in an L4; returns what it loads."""
    loaded: list[Any] = []

    def load(flavour: Flavour, serialised: bytes, device: torch.device) -> RecordingEngine:
        loaded.append((flavour.name, len(serialised), device))
        return RecordingEngine()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(backend, "capability_of", lambda _: "8.9")
    monkeypatch.setattr(backend, "installed_flavour", lambda _: rtx)
    monkeypatch.setattr(backend, "LoadedEngine", load)
    monkeypatch.setattr(backend, "CudaStreams", lambda _: RecordingStreams())
    return loaded


def test_engine_built_elsewhere_is_taken_from_the_cache(
    on_a_gpu: list[Any], built: EngineFile, tmp_path: Path
) -> None:
    engine_folder(tmp_path).mkdir()
    for file in (built.path, description_file(built.path)):
        (engine_folder(tmp_path) / file.name).write_bytes(file.read_bytes())
    request = BackendRequest(
        denoiser=random_dit(CONFIG).bfloat16(),
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        rows=16,
        cache_dir=tmp_path,
    )
    name, denoiser = create_backend("tensorrt", request)
    assert (name, type(denoiser)) == ("tensorrt", TensorRTDenoiser)
    assert on_a_gpu == [("tensorrt-rtx", built.description.bytes, torch.device("cuda:0"))]
    assert not (tmp_path / "onnx").exists()


def test_missing_engine_is_built_once(
    on_a_gpu: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rtx: Flavour
) -> None:
    made: list[tuple[Path, RowRange]] = []

    def make(dit: Any, path: Path, flavour: Flavour, rows: RowRange, **options: Any) -> None:
        made.append((path, rows))
        path.parent.mkdir(exist_ok=True)
        settings = {"flavour": rtx, "identity": options["identity"], "capabilities": ("8.9",), "gpu": None}
        write_engine(path, b"engine", rows=(rows.least, rows.best, rows.most), **settings)

    monkeypatch.setattr("mgd3_engine.tensorrt.engine_cache.export_engine", make)
    monkeypatch.setattr("mgd3_engine.tensorrt.engine_cache.capability_of", lambda _: "8.9")
    monkeypatch.setattr("mgd3_engine.tensorrt.engine_cache.check_capabilities", lambda *_: None)
    request = BackendRequest(
        denoiser=random_dit(CONFIG),
        device=torch.device("cuda", 1),
        dtype=torch.float32,
        rows=16,
        cache_dir=tmp_path,
    )
    for _ in range(2):
        create_backend("tensorrt", request)
    ((path, rows),) = made
    assert path.parent == engine_folder(tmp_path)
    assert rows == RowRange(1, 16, 16)
    assert on_a_gpu == [("tensorrt-rtx", 6, torch.device("cuda:1"))] * 2


@pytest.mark.gpu
def test_engine_equals_eager_on_a_gpu(tmp_path: Path) -> None:
    try:
        installed_flavour("{}.{}".format(*torch.cuda.get_device_capability()))
    except ValueError as error:
        pytest.skip(str(error))
    dit, inputs = random_dit(CONFIG).cuda(), [one.cuda() for one in dit_inputs(CONFIG, 16)]
    request = BackendRequest(
        denoiser=dit, device=torch.device("cuda"), dtype=torch.float32, rows=16, cache_dir=tmp_path
    )
    _, denoiser = create_backend("tensorrt", request)
    assert float((denoiser(*inputs) - dit(*inputs)).abs().max()) < 1e-4
