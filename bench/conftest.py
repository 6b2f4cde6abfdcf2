"""Benchmarks share the tests' random networks; a run says what it ran on and ends with all its figures."""

from __future__ import annotations

import shlex
from typing import Any

import pytest


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    from bench.machine import describe_machine
    from bench.measuring import SIZE

    words = [str(word) for word in config.invocation_params.args if "--benchmark-json" not in str(word)]
    command = shlex.join([f"BENCH_SIZE={SIZE}", "pytest", *words])
    machine_info["mgd3_fast"] = describe_machine() | {"bench_size": SIZE, "command": command}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print every figure in one line: pytest-benchmark's own table knows nothing but seconds."""
    session = getattr(config, "_benchmarksession", None)
    records = [
        record
        for benchmark in getattr(session, "benchmarks", ())
        for record in benchmark.extra_info.get("records", ())
    ]
    if not records:
        return
    terminalreporter.write_sep("-", "figures: median (20th to 80th percentile)")
    for record in records:
        unit = "" if record["unit"] == "1" else f" {record['unit']}"
        spread = "" if record["p20"] is None else f" ({record['p20']:.4g} to {record['p80']:.4g})"
        subject = f"{record['op']} {record['size']} {record['dtype']}: {record['provider']}"
        terminalreporter.write_line(f"{subject}: {record['metric']} {record['value']:.4g}{unit}{spread}")
