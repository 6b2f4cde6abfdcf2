"""Device and number format from what was asked for and what the machine has."""

from __future__ import annotations

import pytest
import torch

from mgd3_fast.devices import autoencoder_dtype, device_name, dtype_of, resolve_device, resolve_precision
from mgd3_fast.errors import UserError

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


def test_dtypes_of_network_and_autoencoder() -> None:
    assert [dtype_of(name) for name in ("fp32", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    assert [autoencoder_dtype(name) for name in ("fp32", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float32,
    ]


def test_name_of_the_processor() -> None:
    assert device_name(CPU) == "cpu"
