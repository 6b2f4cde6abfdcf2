"""The demo end to end: mnist5k through the shipped model, with and without stored latents.

    pytest bench/speed/bench_distill.py --benchmark-only

`distill` is timed in a process whose libraries are loaded, and the command line as a user meets it: a new
process, peak memory included. Files are compared between the runs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measuring import DEVICE, OURS, Figures, Subject, seconds_of, sized, time_rounds
from mgd3_fast import DistillConfig, DistilledDataset, distill

pytest.importorskip("mlxtend", reason="needs the extra 'demo'")

IPC = sized(1, 10)
IMAGES = 10 * IPC
ROUNDS = 3


@pytest.mark.parametrize("latents", sized(["none"], ["stored", "none"]))
def test_demo(benchmark: BenchmarkFixture, tmp_path: Path, latents: str) -> None:
    results: list[DistilledDataset] = []

    def run() -> None:
        number = len(results)
        cache = tmp_path / ("cache" if latents == "stored" else f"cache {number}")
        out = tmp_path / f"out {number}"
        config = DistillConfig(dataset="mnist5k", ipc=IPC, out=out, cache_dir=cache, device=str(DEVICE))
        results.append(distill(config))

    seconds = time_rounds(benchmark, run, rounds=ROUNDS)
    files = [[path.read_bytes() for path, _ in result] for result in results]
    assert all(one == files[0] for one in files)
    assert len(files[0]) == IMAGES
    assert all(Image.open(path).size == (32, 32) for path, _ in results[0])
    if seconds is None:
        return
    size = f"mnist5k, {IPC} images a class, latents {latents}"
    figures = Figures(benchmark, Subject("distill", size, "auto", IMAGES))
    figures.add("distill()", "time", "s", list(seconds[OURS]))
    figures.add_rate("distill()", "rate", "images/s", IMAGES, seconds[OURS])
    for stage in results[-1].timings_s:
        figures.add("distill()", f"{stage}_time", "s", results[-1].timings_s[stage])


# Of a process that a large one starts, Linux counts the parent's memory too; this one is small.
PEAK_OF_CHILD = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def test_command_line(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """A new process on an empty cache, then on stored latents."""
    peak_gib: list[float] = []

    def run() -> None:
        words = f"-m mgd3_fast distill --quiet --dataset mnist5k --ipc {IPC} --device {DEVICE}".split()
        words += ["--cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path / str(len(peak_gib)))]
        command = [sys.executable, "-c", PEAK_OF_CHILD, sys.executable, *words]
        kib = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        peak_gib.append(int(kib) / 2**20)

    first_s = seconds_of(run)
    seconds = time_rounds(benchmark, run, rounds=ROUNDS, warm_up=False)
    for number in range(len(peak_gib)):
        assert len(list((tmp_path / str(number)).glob("*/*.png"))) == IMAGES
    if seconds is None:
        return
    size = f"mnist5k, {IPC} images a class"
    empty = Figures(benchmark, Subject("distill", f"{size}, latents none", "auto", IMAGES))
    empty.add("mgd3-fast distill", "time", "s", first_s)
    empty.add("mgd3-fast distill", "peak_resident", "GiB", peak_gib[0])
    stored = Figures(benchmark, Subject("distill", f"{size}, latents stored", "auto", IMAGES))
    stored.add("mgd3-fast distill", "time", "s", list(seconds[OURS]))
    stored.add("mgd3-fast distill", "peak_resident", "GiB", max(peak_gib[1:]))
