"""Run what only a GPU can show and write one JSON file; GPU_CHECKS.md lists the claims.

    PYTHONPATH=engine:kernels python -m bench.gpu.checks --out results --part 1     # 7 minutes of a card
    PYTHONPATH=engine:kernels python -m bench.gpu.checks --out results --part 2     # 5 minutes more

Needs torch and triton alone. What needs no quiet GPU runs first, in six processes at once; then checks of
speed run one after another. A check that crashes or hangs fails alone. The file is written anew after every
check, so that a run cut short leaves what it had; part 2 adds to what part 1 wrote. `--only NAME ...` runs
some in this process. `--device cpu` rehearses the checks in Triton's interpreter on small sizes.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.gpu.figures import screen
from bench.gpu.plan import BUDGET_S, SIDE_PROCESSES, one_by_one, side_by_side
from bench.gpu.processes import RUNNING, CheckProcesses, read_report

PARTS = (
    "kernel_checks",
    "kmeans_checks",
    "network_checks",
    "dit_checks",
    "float8_checks",
    "attention_checks",
    "sampler_checks",
    "rival_checks",
    "tensorrt_checks",
    "discovery_checks",
    "decode_checks",
    "encode_checks",
    "evaluate_checks",
)
"""Modules of this folder, each with its `CHECKS`."""

Check = Callable[[Any], dict[str, Any]]


def all_checks() -> dict[str, Check]:
    return {
        name: check for part in PARTS for name, check in import_module(f"bench.gpu.{part}").CHECKS.items()
    }


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


class Report:
    """The results of a run, in a file that is renewed with each of them."""

    def __init__(self, folder: Path, machine: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
        self._path, self._machine = folder / "gpu_checks.json", machine
        self.results: dict[str, dict[str, Any]] = dict(earlier)
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, results: Mapping[str, dict[str, Any]]) -> None:
        self.results.update(results)
        report = {"machine": self._machine, "checks": self.results}
        unfinished = self._path.with_suffix(".part")  # another process reads the file at any moment
        unfinished.write_text(json.dumps(report, indent=2) + "\n")
        unfinished.replace(self._path)


def results_of_part_1(folder: Path, machine: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is there already, if it is of the same code on the same kind of device."""
    earlier, results = read_report(folder)
    same = all(earlier.get(name) == machine[name] for name in ("device", "commit"))
    return results if same else {}


def run_here(names: Sequence[str], device: str, report: Report, deadline: float, limit_s: float) -> None:
    """Run checks in this process, which ends when one of them takes longer than it may."""
    import torch

    from bench.gpu.checking import Setting

    checks, setting = all_checks(), Setting(torch.device(device))
    for name in names:
        left = deadline - time.monotonic()
        if left <= 0:
            report.add({name: {"status": "not reached"}})
            continue
        limit = min(limit_s, left)
        report.add({name: {"status": RUNNING, "began": time.time(), "limit_s": limit}})
        faulthandler.dump_traceback_later(limit, exit=True)
        result = run_check(checks[name], setting)
        faulthandler.cancel_dump_traceback_later()
        report.add({name: result})
        print(f"{name}: {result['status']} in {result['seconds']} s", flush=True)


def run_plan(
    names: Sequence[str], device: str, part: int | None, report: Report, deadline: float, limit_s: float
) -> None:
    """Run checks in processes: side by side what needs no quiet GPU, then the others one after another."""
    quiet, beside = one_by_one(names, part), side_by_side(names, part)

    def found(results: Mapping[str, dict[str, Any]]) -> None:
        report.add({n: r | {"alone_on_the_gpu": n in quiet} for n, r in results.items()})
        for name, result in results.items():
            print(f"{name}: {result['status']} in {result.get('seconds', 0)} s", flush=True)

    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as folder:
        arguments = ["--device", device, "--limit-s", str(limit_s)]
        processes = CheckProcesses(arguments, Path(folder), deadline, found)
        # In the interpreter starting takes longer than most checks do.
        processes.run_beside(beside, SIDE_PROCESSES[device], together=device == "cpu")
        processes.run_in_turn(quiet)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu_checks.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--part", type=int, choices=(1, 2), help="one of the two calls; default: both in one")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these checks, in this process")
    parser.add_argument("--budget-s", type=float, help="end after so many seconds (420, 300; both 720)")
    parser.add_argument("--limit-s", type=float, default=180, help="seconds that a check may take (180)")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    started = time.monotonic()
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

    import torch

    names = list(all_checks())
    if args.device == "cuda" and not torch.cuda.is_available():
        print("gpu_checks: device must be cpu where torch sees no GPU, got cuda", file=sys.stderr)
        return 2
    unknown = sorted(set(args.only or ()) - set(names))
    if unknown:
        print(f"gpu_checks: --only must name checks of {', '.join(names)}, got {unknown[0]}", file=sys.stderr)
        return 2

    machine = describe_machine(args.device)
    report = Report(args.out, machine, results_of_part_1(args.out, machine) if args.part == 2 else {})
    deadline = started + (BUDGET_S[args.part] if args.budget_s is None else args.budget_s)
    if args.only:
        run_here(args.only, args.device, report, deadline, args.limit_s)
    else:
        run_plan(names, args.device, args.part, report, deadline, args.limit_s)
        print(screen(report.results))
    return int(any(result["status"] == "failed" for result in report.results.values()))


if __name__ == "__main__":
    sys.exit(main())
