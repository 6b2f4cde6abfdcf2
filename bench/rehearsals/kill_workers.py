"""Kill workers and their driver with SIGKILL in every stage, go on each time, and compare with one process.

python -m bench.rehearsals.kill_workers --kills 30 --dataset mnist5k --ipc 4 --batch-size 8

A round is a run with an empty cache by `--workers 2`. In each of its stages a worker or the driver is killed
up to half a second after a random part of the stage's files is there; a killed driver is started again with
the same command, once its workers have ended. Rounds go on until there were so many kills. Every round's
folder, that of two workers left alone, and that of two shards must be what one process writes. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from bench.rehearsals.kill_and_resume import command, compare, images_in, leftovers, report
from mgd3_fast.versions import versions

STAGES = ("start", "encode", "discover", "images", "end")
WORKERS = ["--workers", "2"]
LATEST_S = 0.5
POLL_S = 0.002


@dataclass
class Kill:
    """One SIGKILL, and what there was when it was sent.

    Args:
        stage: Of `STAGES`.
        victim: worker or driver.
        latents: Files of latents.
        modes: Classes whose modes were kept.
        images: Images.
        workers_ended_s: Seconds after which no worker of a killed driver was left.
    """

    stage: str
    victim: str
    latents: int
    modes: int
    images: int
    workers_ended_s: float | None = None


class Round:
    """A run in `folder` that is killed again and again."""

    def __init__(self, options: list[str], folder: Path, name: str, totals: dict[str, int]) -> None:
        self._command = command([*options, *WORKERS], folder, name)
        self._out, self._cache, self._totals = folder / name, folder / f"cache of {name}", totals
        self._driver = self._start()

    def _start(self) -> psutil.Popen:
        return psutil.Popen(self._command, stderr=subprocess.PIPE)

    def counts(self) -> dict[str, int]:
        return {
            "latents": len(list(self._cache.glob("latents-2/*/*.safetensors"))),
            "modes": len(list(self._out.glob(".mgd3-fast/modes/*.safetensors"))),
            "images": images_in(self._out),
        }

    def reached(self, stage: str, part: float) -> bool:
        """Whether a stage is there, and some part of its files."""
        now, totals = self.counts(), self._totals
        if stage == "start":
            return bool(self._workers())
        if stage == "end":
            return now["images"] >= totals["images"]
        counted = {"encode": "latents", "discover": "modes", "images": "images"}[stage]
        return now[counted] >= max(1, round(part * totals[counted] * 0.9))

    def kill(self, stage: str, victim: str, moments: random.Random) -> Kill | None:
        """Kill somebody in a stage; None where the run was over before."""
        part, later_s = moments.random(), moments.uniform(0, LATEST_S)
        while not self.reached(stage, part):
            if self._driver.poll() is not None:
                return None
            time.sleep(POLL_S)
        time.sleep(later_s if stage != "end" else later_s / 10)
        workers = self._workers()
        if self._driver.poll() is not None or not workers:
            return None
        made = Kill(stage, victim, **self.counts())
        (self._driver if victim == "driver" else moments.choice(workers)).kill()
        if victim == "driver":
            self._driver.wait()
            started = time.perf_counter()
            _, alive = psutil.wait_procs(workers, timeout=10)
            assert not alive, "workers outlive their driver"
            made.workers_ended_s = round(time.perf_counter() - started, 3)
            self._driver = self._start()
        return made

    def finish(self) -> str:
        """Let it end, and return what it said."""
        _, said = self._driver.communicate()
        assert self._driver.returncode == 0, said.decode()
        return str(said.decode())

    def _workers(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return list(self._driver.children())
        return []


def campaign(options: list[str], kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill so often, and compare what comes out; JSON values only."""
    subprocess.run(command(options, folder, "whole"), check=True)
    totals = {"latents": 0, "modes": 0, "images": images_in(folder / "whole")}
    totals["latents"] = len(list(folder.glob("cache of whole/latents-2/*/*.safetensors")))
    totals["modes"] = len(list((folder / "whole").glob("*/0.png")))
    subprocess.run(command([*options, *WORKERS], folder, "two workers"), check=True)
    for part in ("1/2", "2/2"):
        subprocess.run(command([*options, "--shard", part], folder, "two shards"), check=True)
    made, names = rounds(options, kills, seed, folder, totals)
    compared = ["two workers", "two shards", *names]
    return {
        "options": options,
        "kills": [asdict(one) for one in made],
        "kills_by_stage": {stage: sum(one.stage == stage for one in made) for stage in STAGES},
        "rounds": len(names),
        "files_compared": sum(1 for path in (folder / "whole").rglob("*") if path.is_file()),
        "differing": {
            name: differ for name in compared if (differ := compare(folder / "whole", folder / name))
        },
        "left_over": leftovers(folder),
        "versions": versions(),
    }


def rounds(
    options: list[str], kills: int, seed: int, folder: Path, totals: dict[str, int]
) -> tuple[list[Kill], list[str]]:
    """Round after round, victims in turn; in the next round each stage has the other victim."""
    moments, made, names = random.Random(seed), [], []
    victims: Iterator[str] = cycle(("worker", "driver"))
    while len(made) < kills:
        names.append(f"round {len(names)}")
        run = Round(options, folder, names[-1], totals)
        for stage in STAGES:
            if one := run.kill(stage, next(victims), moments):
                made.append(one)
                print(f"{names[-1]}: {one}", file=sys.stderr, flush=True)
        run.finish()
    return made, names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="number of SIGKILLs, at least (default: 30)")
    parser.add_argument("--moments-seed", type=int, default=0, help="seed of the moments (default: 0)")
    arguments, options = parser.parse_known_args()
    options = options or ["--dataset", "mnist5k", "--ipc", "4", "--batch-size", "8"]
    with tempfile.TemporaryDirectory() as folder:
        figures = campaign(options, arguments.kills, arguments.moments_seed, Path(folder))
    report(figures, "a folder differs from that of one process")


if __name__ == "__main__":
    main()
