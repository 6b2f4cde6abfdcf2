"""What two single-threaded workers make on two processors, beside one: images a second, start-up apart.

python -m bench.rehearsals.two_workers --pairs 3 --dataset mnist5k --ipc 100 --batch-size 16

Runs of one worker and of two alternate, on latents that are encoded once. The rate is that of the images
after the first two units of each worker and before the last: the slope of their number over the times at
which their files were written. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe_machine
from bench.rehearsals.kill_and_resume import command

FIRST, LAST = 2, 1  # units of each worker that are left out


def environment() -> dict[str, str]:
    """One thread for each worker, also for the one that is alone."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "2"}


def images_per_s(out: Path, workers: int, unit: int) -> float:
    """Slope of the number of images over the times of their files."""
    times = np.sort([path.stat().st_mtime_ns for path in out.glob("*/*.png")]) / 1e9
    kept = slice(FIRST * workers * unit, len(times) - LAST * workers * unit)
    return float(np.polyfit(times[kept], np.arange(len(times))[kept], 1)[0])


def compare_rates(options: list[str], unit: int, pairs: int, folder: Path) -> dict[str, Any]:
    """Run so many pairs, and return figures, JSON values only."""
    words = [*options, "--batch-size", str(unit), "--cache-dir", str(folder / "cache")]
    rates: dict[int, list[float]] = {1: [], 2: []}
    for pair in range(pairs):
        for workers in (1, 2) if pair % 2 == 0 else (2, 1):
            out = folder / f"{pair} by {workers}"
            made = [*command([], folder, out.name)[:-2], *words, "--workers", str(workers)]
            subprocess.run(made, check=True, env=environment())
            rates[workers].append(round(images_per_s(out, workers, unit), 3))
    shares = [round(two / (2 * one), 3) for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        "options": [*options, "--batch-size", str(unit)],
        "images_per_s": {"one worker": rates[1], "two workers": rates[2]},
        "share_of_twice": shares,
        "median_share_of_twice": statistics.median(shares),
        "machine": describe_machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="(default: 3)")
    parser.add_argument("--batch-size", type=int, default=16, help="images of a unit (default: 16)")
    arguments, options = parser.parse_known_args()
    options = options or ["--dataset", "mnist5k", "--ipc", "100"]
    with tempfile.TemporaryDirectory() as folder:
        print(
            json.dumps(compare_rates(options, arguments.batch_size, arguments.pairs, Path(folder)), indent=2)
        )


if __name__ == "__main__":
    main()
