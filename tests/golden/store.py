"""Recorded behaviour: what a run gave then, a JSON file a subject, and how a run of now is held against it.

Kinds of values: a sha256 (64 hexadecimal digits) and what libraries decide ("here: ...") are compared only on
a machine like the one that recorded them; elsewhere a picture's levels ("levels ...") may differ by one and
floating-point numbers by a little; everything else is the same everywhere.
"""

from __future__ import annotations

import json
import math
import platform
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "records"
HASH = re.compile(r"[0-9a-f]{64}")
LEVELS, HERE = "levels ", "here: "
# Relative to the larger number, and absolute. Measured with AVX2 in place of AVX-512: 1.4e-4, of a Frechet
# distance; all else, losses and accuracies too, is within 1e-4.
RELATIVE, ABSOLUTE = 5e-4, 1e-6
# Their code decides bits or bytes.
_PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "pillow", "diffusers", "transformers", "safetensors"),
    *("datasets", "pyarrow", "onnx", "onnxscript", "matplotlib", "jinja2", "mlxtend"),
)


def machine() -> dict[str, str]:
    """What decides the last bits: the processor, the instructions that are used of it, the libraries."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "processor": found[1] if found else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{package: _installed(package) for package in _PACKAGES},
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


class Golden:
    """The recorded files: written when `recording`, else compared with."""

    def __init__(self, recording: bool, folder: Path = FOLDER) -> None:
        self.recording, self.folder = recording, folder

    def check(self, name: str, found: dict[str, Any]) -> None:
        """Hold what a run gave against the record of the same name, or record it.

        On a machine unlike the recording one, hashes are not compared and a warning says so.
        """
        path, found = self.folder / f"{name}.json", json.loads(json.dumps(found))
        if self.recording:
            self.folder.mkdir(exist_ok=True)
            path.write_text(_written({"machine": machine(), "found": found}))
            return
        assert path.exists(), f"nothing is recorded for {name}: pytest tests/golden --record-golden"
        recorded = json.loads(path.read_text())
        here, there = machine(), recorded["machine"]
        others = [
            f"{part} ({there.get(part)}, here {here[part]})" for part in here if there.get(part) != here[part]
        ]
        if others:
            told = f"{name}: no bytes are compared, because it was recorded with another"
            warnings.warn(f"{told} {', '.join(others)}", stacklevel=2)
        wrong = list(differences(recorded["found"], found, name, exact=not others))
        listed = "\n".join(wrong[:20])
        assert not wrong, f"{len(wrong)} differences from what was recorded, first:\n{listed}"


def _written(content: Any) -> str:
    """Indented JSON whose innermost objects and lists take a line each."""
    innermost = re.compile(r"([\[{])\n\s*([^\[\]{}]*?)\n\s*([\]}])")
    text = json.dumps(content, indent=1)
    return innermost.sub(lambda one: one[1] + re.sub(r"\n\s*", " ", one[2]) + one[3], text) + "\n"


def differences(recorded: Any, found: Any, place: str, *, exact: bool) -> Iterator[str]:
    """Name every place where two trees differ; the order of names in an object counts."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        if list(recorded) != list(found):
            yield f"{place}: {list(recorded)} was recorded, got {list(found)}"
        yield from chain.from_iterable(
            differences(recorded[key], found[key], f"{place} > {key}", exact=exact)
            for key in recorded
            if key in found
        )
    elif isinstance(recorded, list) and isinstance(found, list):
        if len(recorded) != len(found):
            yield f"{place}: {len(recorded)} entries were recorded, got {len(found)}: {str(found)[:200]}"
        for number, (one, other) in enumerate(zip(recorded, found, strict=False)):
            yield from differences(one, other, f"{place} > {number}", exact=exact)
    elif type(recorded) is not type(found) or not (
        recorded == found or (not exact and close(recorded, found))
    ):
        yield f"{place}: {recorded!r} was recorded, got {found!r}"


def close(recorded: Any, found: Any) -> bool:
    """Tell whether two values of one kind are what other processors and libraries may make of one another."""
    if isinstance(recorded, float):
        return math.isclose(recorded, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if not isinstance(recorded, str):
        return False
    if (HASH.fullmatch(recorded) and HASH.fullmatch(found)) or recorded.startswith(HERE):
        return True
    if not (recorded.startswith(LEVELS) and found.startswith(LEVELS)) or len(recorded) != len(found):
        return False
    one, other = (bytes.fromhex(levels.removeprefix(LEVELS)) for levels in (recorded, found))
    return all(abs(a - b) <= 1 for a, b in zip(one, other, strict=True))
