"""Compile kernels ahead of time, without a GPU.

The compiler runs in a process of its own, because Triton's interpreter, once chosen, stays chosen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Oldest, measured, newest; `python -m bench.gpu.kernel_resources` compiles for all of them.
CAPABILITIES = (80, 90, 120)
FLOAT8_CAPABILITIES = (90, 120)

Row = dict[str, Any]


def compile_report(cache: Path, module: str, *arguments: str) -> list[Row]:
    """What `bench.gpu.<module>` finds in compiled kernels, one row a kernel and capability."""
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", f"bench.gpu.{module}", "--json", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def covering_report(
    cache: Path, module: str, capabilities: tuple[int, ...] = CAPABILITIES, others: str = "--main-cc"
) -> dict[tuple[str, int], Row]:
    """The main variants for every capability and the covering set for 9.0, by variant and capability."""
    rest = [str(capability) for capability in capabilities if capability != 90]
    rows = compile_report(cache, module, "--cc", "90", others, *rest)
    return {(row["variant"], row["capability"]): row for row in rows}
