"""Run the benchmarks at full size, or take a finished run, and keep their figures in bench/results/.

    python -m bench.record                              # all of bench/
    python -m bench.record bench/speed/bench_sampler.py       # some
    python -m bench.record --from run.json              # what pytest --benchmark-json=run.json wrote

A result is a JSON file of flat records, one per figure and line, each with its device, versions, commit and
command. `bench/speed/table.py` makes the README's table of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
RESULTS = BENCH / "results"


def run_benchmarks(arguments: list[str], size: str, report: Path) -> None:
    options = ["--benchmark-only", f"--benchmark-json={report}"]
    command = [sys.executable, "-m", "pytest", *arguments, *options]
    environment = os.environ | {"BENCH_SIZE": size}
    status = subprocess.run(command, env=environment, cwd=BENCH.parent).returncode
    if status:
        raise SystemExit(f"record: the benchmarks failed with status {status}, nothing is kept")


def trim(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Make flat records of a pytest-benchmark report.

    Args:
        report: What `--benchmark-json` wrote.

    Returns:
        One record per figure: its own fields, then device, threads, versions, commit and command.
    """
    machine = report["machine_info"]["mgd3_fast"]
    origin = {
        "device": machine["device"],
        "kind": machine["kind"],
        "threads": machine["threads"],
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "driver": machine.get("driver"),
        "commit": machine["commit"] or "unknown",
        "uncommitted_changes": machine["uncommitted_changes"] or machine["commit"] is None,
        "when": machine["when"],
        "bench_size": machine["bench_size"],
        "command": machine["command"],
    }
    figures = [
        one for benchmark in report["benchmarks"] for one in benchmark["extra_info"].get("records", ())
    ]
    return [{**figure, **origin} for figure in figures]


def write_result(records: list[dict[str, Any]], folder: Path) -> Path:
    """Write `<device>-<date>-<commit>.json`, a record a line; a later run of the same day gets a number.

    Args:
        records: Of one run.
        folder: Made if missing.

    Returns:
        The file.

    Raises:
        ValueError: There are no records.
    """
    if not records:
        raise ValueError("records must be at least one, got none: no benchmark kept a figure")
    first = records[0]
    device = re.sub(r"[^a-z0-9]+", "-", first["device"].lower()).strip("-")
    stem = f"{device}-{first['when'][:10]}-{first['commit'][:7]}"
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.json", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.json", number + 1
    lines = ",\n".join(json.dumps(record) for record in records)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("arguments", nargs="*", default=["bench/"], help="files or folders (default: bench/)")
    parser.add_argument("--size", choices=("smoke", "full"), default="full", help="default: full")
    parser.add_argument("--from", dest="report", type=Path, help="a finished --benchmark-json report")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder (default: bench/results)")
    args = parser.parse_args()
    if args.report is not None:
        report = json.loads(args.report.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.json"
            run_benchmarks(args.arguments, args.size, path)
            report = json.loads(path.read_text())
    records = trim(report)
    if any(record["uncommitted_changes"] for record in records):
        print("record: the checkout has uncommitted changes; table.py takes no figure of such a run")
    print(f"{write_result(records, args.out)}: {len(records)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
