"""Run what only a GPU can show and write one JSON file; GPU_CHECKS.md lists the claims.

    PYTHONPATH=engine:kernels python bench/gpu_checks.py --out results

Needs torch and triton alone. `--device cpu` rehearses the checks in Triton's interpreter on small sizes.
The file is written anew after every check, so that a run cut short leaves what it had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

PARTS = (
    "kernel_checks",
    "kmeans_checks",
    "network_checks",
    "float8_checks",
    "attention_checks",
    "sampler_checks",
    "tensorrt_checks",
    "discovery_checks",
    "decode_checks",
    "encode_checks",
    "evaluate_checks",
)
"""Modules of this folder, each with its `CHECKS`."""

Check = Callable[[Any], dict[str, Any]]


def all_checks() -> dict[str, Check]:
    return {name: check for part in PARTS for name, check in import_module(part).CHECKS.items()}


def command_output(*command: str) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def describe_machine(device: str) -> dict[str, Any]:
    """Device, driver, versions and commit, as far as they can be found out."""
    import torch
    import triton

    machine: dict[str, Any] = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": command_output("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(command_output("git", "status", "--porcelain", "--untracked-files=no")),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine["device"] = properties.name
        machine["capability"] = f"{properties.major}.{properties.minor}"
        machine["multiprocessors"] = properties.multi_processor_count
        machine["memory_gib"] = round(properties.total_memory / 2**30, 1)
        machine["cuda"] = torch.version.cuda
        machine["driver"] = command_output(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        )
    return machine


def run_check(check: Check, setting: Any) -> dict[str, Any]:
    """Status, seconds, and figures or reason; an exception is a failure of this check alone."""
    started = time.perf_counter()
    try:
        figures = check(setting)
        result = {"status": "skipped" if "skipped" in figures else "passed", "figures": figures}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        result = {"status": "failed", "reason": reason, "figures": getattr(error, "figures", {})}
        traceback.print_exc()
    return result | {"seconds": round(time.perf_counter() - started, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu_checks.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these checks; default: all")
    parser.add_argument("--budget-s", type=float, default=540, help="start no check after so many seconds")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

    import torch
    from checking import Setting

    checks = all_checks()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("gpu_checks: device must be cpu where torch sees no GPU, got cuda", file=sys.stderr)
        return 2
    unknown = sorted(set(args.only or ()) - set(checks))
    if unknown:
        print(
            f"gpu_checks: --only must name checks of {', '.join(checks)}, got {unknown[0]}", file=sys.stderr
        )
        return 2

    results: dict[str, dict[str, Any]] = {}
    setting, started = Setting(torch.device(args.device)), time.monotonic()
    machine = describe_machine(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only or checks:
        in_time = time.monotonic() - started < args.budget_s
        results[name] = run_check(checks[name], setting) if in_time else {"status": "not reached"}
        print(f"{name}: {results[name]['status']} in {results[name].get('seconds', 0)} s", flush=True)
        report = {"machine": machine, "checks": results}
        (args.out / "gpu_checks.json").write_text(json.dumps(report, indent=2) + "\n")
    return int(any(result["status"] == "failed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
