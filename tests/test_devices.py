"""Device and number format from what was asked for and what the machine has."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mgd3_engine.dit import DiT
from mgd3_engine.dit.float8 import Float8Linear, missing_float8
from mgd3_fast.devices import autoencoder_dtype, device_name, dtype_of, resolve_device, resolve_precision
from mgd3_fast.errors import UserError
from mgd3_fast.generators import load_generator, place_network

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pretend a machine with so many GPUs of capability 9.0."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", CPU),
        (0, "cpu", CPU),
        (2, "cpu", CPU),
        (2, "auto", GPU),
        (2, "cuda", GPU),
        (2, "cuda:1", torch.device("cuda:1")),
    ],
    indirect=["gpus"],
)
@pytest.mark.usefixtures("gpus")
def test_device(name: str, device: torch.device) -> None:
    assert resolve_device(name) == device


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.parametrize(
    ("variables", "index"),
    [({"LOCAL_RANK": "1"}, 1), ({"SLURM_LOCALID": "3"}, 1), ({"LOCAL_RANK": "2", "SLURM_LOCALID": "1"}, 0)],
)
@pytest.mark.usefixtures("gpus")
def test_processes_of_a_machine_take_its_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], index: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert resolve_device("auto") == torch.device("cuda", index)
    assert resolve_device("cuda") == GPU


@pytest.mark.parametrize(
    ("gpus", "name", "words"),
    [
        (0, "cuda", "device must be auto or cpu on this machine, which has no CUDA device"),
        (2, "cuda:2", "device must be one of cuda:0 to cuda:1 on this machine, got 'cuda:2'"),
    ],
    indirect=["gpus"],
)
@pytest.mark.usefixtures("gpus")
def test_device_that_is_not_there(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_device(name)


@pytest.mark.parametrize(
    ("capability", "device", "precision"),
    [
        pytest.param((9, 0), CPU, "fp32", id="cpu"),
        pytest.param((9, 0), GPU, "bf16", id="Hopper"),
        pytest.param((8, 0), GPU, "bf16", id="Ampere"),
        pytest.param((7, 5), GPU, "fp32", id="Turing"),
    ],
)
def test_auto_precision(
    capability: tuple[int, int], device: torch.device, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", device) == precision
    assert resolve_precision("fp16", device) == "fp16"


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 0)])
def test_fp8_on_gpus_that_multiply_it(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("fp8", GPU) == "fp8"


@pytest.mark.parametrize(
    ("device", "words"),
    [
        pytest.param(CPU, r"on cpu, got 'fp8', which needs a GPU of capability 8\.9 or later", id="cpu"),
        pytest.param(GPU, r"on cuda:0, of capability 8\.6, got 'fp8', which needs", id="Ampere"),
    ],
)
def test_fp8_elsewhere_is_refused(device: torch.device, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(UserError, match=f"precision must be auto, fp32, bf16 or fp16 {words}"):
        resolve_precision("fp8", device)


def test_dtypes_of_network_and_autoencoder() -> None:
    precisions = ("fp32", "bf16", "fp16", "fp8")
    f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
    assert [dtype_of(name) for name in precisions] == [f32, bf16, f16, bf16]
    assert [autoencoder_dtype(name) for name in precisions] == [f32, bf16, f32, bf16]


def test_network_is_placed_as_asked() -> None:
    generator = load_generator("demo-mnist5k")
    for precision in ("fp32", "bf16"):
        network = place_network(generator, CPU, precision)
        assert isinstance(network, DiT)
        assert {parameter.dtype for parameter in network.parameters()} == {dtype_of(precision)}


@pytest.mark.skipif(bool(missing_float8(CPU)), reason="this torch has no 8-bit product on a CPU")
def test_fp8_network_is_bfloat16_with_8_bit_blocks() -> None:
    network = place_network(load_generator("demo-mnist5k"), CPU, "fp8")
    assert isinstance(network, DiT)
    assert isinstance(network.blocks[0].mlp.fc1, Float8Linear)
    assert network.final_layer.linear.weight.dtype == torch.bfloat16


def test_fp8_is_for_dits() -> None:
    network = SimpleNamespace(denoiser=lambda device, dtype: lambda x, t, c: x)
    generator = replace(load_generator("demo-mnist5k"), network=network)
    with pytest.raises(UserError, match=r"precision must be .* for demo-mnist5k, got 'fp8'"):
        place_network(generator, CPU, "fp8")


def test_name_of_the_processor() -> None:
    assert device_name(CPU) == "cpu"
