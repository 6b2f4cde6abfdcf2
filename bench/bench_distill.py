"""The demo end to end on a CPU: mnist5k through the shipped model, with and without stored latents.

    pytest bench/bench_distill.py --benchmark-only

Seconds are of `distill` in a process whose libraries are loaded; the split by stage is in the extra
information. `mgd3-fast distill --dataset mnist5k --ipc 10` is `test_demo` with the loading on top.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from mgd3_fast import DistillConfig, DistilledDataset, distill
from mgd3_fast.versions import versions

pytest.importorskip("mlxtend", reason="needs the extra 'demo'")

IPC = int(os.environ.get("BENCH_IPC", "2"))


@pytest.mark.parametrize("latents", ["stored", "none"])
def test_demo(benchmark: BenchmarkFixture, tmp_path: Path, latents: str) -> None:
    runs = 0

    def run() -> DistilledDataset:
        nonlocal runs
        runs += 1
        cache = tmp_path / ("cache" if latents == "stored" else f"cache {runs}")
        return distill(
            DistillConfig(
                dataset="mnist5k", ipc=IPC, out=tmp_path / f"out {runs}", cache_dir=cache, device="cpu"
            )
        )

    first = run()
    assert len(first) == 10 * IPC
    assert all(Image.open(path).size == (32, 32) for path, _ in first)
    result = benchmark.pedantic(run, rounds=1)
    assert [path.read_bytes() for path, _ in result] == [path.read_bytes() for path, _ in first]
    benchmark.extra_info.update(
        ipc=IPC,
        images_per_s=round(len(result) / result.timings_s["total"], 2),
        stages_s=result.timings_s,
        threads=torch.get_num_threads(),
        machine=platform.machine(),
        versions=versions(),
    )
