"""Shared test set-up: GPU tests are skipped, by name, where there is no GPU."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pictures import photo

BENCH = Path(__file__).parent.parent / "bench"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator folder with random weights: 16 px, 3 classes whose names it does not know, 4 steps."""
    folder = tmp_path_factory.mktemp("generators") / "tiny"
    make: Callable[..., None] = runpy.run_path(str(BENCH / "tiny_generator.py"))["make_tiny_generator"]
    make(folder, 3)
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
