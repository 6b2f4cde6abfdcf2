"""Versions of the packages whose code decides what is computed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "mgd3-fast",
    "torch",
    "triton",
    "diffusers",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "safetensors",
    "numpy",
    "scikit-learn",
    "pillow",
)


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution, or None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages among `PACKAGES`."""
    found = {package: installed_version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **{name: number for name, number in found.items() if number}}
