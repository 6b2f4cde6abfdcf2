"""What a benchmark ran on: device, threads, versions, commit."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from bench.gpu.checks import describe_machine as describe_gpu_machine
from mgd3_fast.versions import installed_version

PACKAGES = ("torch", "triton", "diffusers", "onnxruntime", "tensorrt-rtx", "scikit-learn")


def describe_machine() -> dict[str, Any]:
    """Name the device, its threads, the versions and the commit, as far as they can be found out."""
    import torch

    on_gpu = torch.cuda.is_available()
    machine = describe_gpu_machine("cuda" if on_gpu else "cpu")
    if not on_gpu:
        machine["device"] = f"{_cpu_name()}, {os.cpu_count()} cores"
    machine["kind"] = "cuda" if on_gpu else "cpu"
    machine["threads"] = torch.get_num_threads()
    found = {package: installed_version(package) for package in PACKAGES}
    machine["versions"] = {"python": platform.python_version()} | {k: v for k, v in found.items() if v}
    return machine


def _cpu_name() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()
