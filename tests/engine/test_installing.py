"""The command that installs an extra names packages that an index has."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from mgd3_engine.installing import install_command

STATED = [
    "torch>=2.6",
    'triton>=3.2; platform_system == "Linux"',
    's3fs>=2025.3; extra == "s3"',
    'ray[data]>=2.50; extra == "ray"',
    'onnx>=1.17; extra == "onnx"',
    'mgd3-fast[onnx]; extra == "tensorrt-rtx"',
    'tensorrt-rtx>=1.2; extra == "tensorrt-rtx"',
    'winonly>=1; platform_system == "Windows" and extra == "s3"',
]


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("s3", "pip install 's3fs>=2025.3'"),
        ("ray", "pip install 'ray[data]>=2.50'"),
        ("tensorrt-rtx", "pip install 'onnx>=1.17' 'tensorrt-rtx>=1.2'"),
        ("newer", "pip install '.[newer]' in the checkout of mgd3-fast"),
    ],
)
def test_packages_are_named(extra: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgd3_engine.installing.requires", lambda name: STATED)
    assert install_command(extra) == command


def test_without_metadata_the_checkout_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("mgd3_engine.installing.requires", missing)
    assert install_command("s3") == "pip install '.[s3]' in the checkout of mgd3-fast"
