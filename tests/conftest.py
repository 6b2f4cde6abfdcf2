"""Shared test set-up: GPU tests are skipped, by name, where there is no GPU; workers share the processors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, and for the processes that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.fakes.hub import Hub
from tests.fakes.pictures import photo

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts a job in the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    # Triton's own functions can be interpreted only if they could be when Triton was first imported.
    with suppress(ImportError), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.language  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-golden",
        action="store_true",
        help="write tests/golden/records/ anew from what test_golden.py finds, instead of comparing with it",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread, and much faster on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are asked for, and Triton cannot be imported."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for name in [name for name in sys.modules if name.startswith("mgd3_kernels.triton_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator folder with random weights: 16 px, 3 classes whose names it does not know, 4 steps."""
    from bench.tiny_generator import make_tiny_generator

    folder = tmp_path_factory.mktemp("generators") / "tiny"
    make_tiny_generator(folder, 3)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of three classes with seven pictures each."""
    root = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(("ant", "bee", "cow")):
        (root / name).mkdir()
        for number in range(7):
            photo(100 * label + number).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def cache_of_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(cache_of_session: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Latents that the tests of a session share, instead of the user's own."""
    monkeypatch.setenv("MGD3_CACHE", str(cache_of_session))
    return cache_of_session


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """What generators are downloaded from."""
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


@pytest.fixture
def multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this CPU for one with bfloat16 arithmetic; torch imitates it where there is none."""
    monkeypatch.setattr("mgd3_fast.generators.batched_autoencoder._multiplies_bfloat16", lambda: True)
