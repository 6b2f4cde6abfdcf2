"""Kill nodes of a Ray cluster in each stage of a run, and its driver twice; compare with one quiet process.

python -m bench.rehearsals.kill_ray_nodes --rounds 3 --classes 40 --ipc 16

Made-up pictures, a network of random weights and a cluster of two nodes of one processor on this machine. A
round is a run from an empty cache: a node is killed while latents are made, while modes are found and while
images are made, each at a random moment, and a new one joins; the driver is killed in two of these stages and
started again. Prints one JSON object and fails if a file differs or a temporary one is left.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from bench.rehearsals.kill_and_resume import command, compare, images_in, leftovers, report
from bench.tiny_generator import make_tiny_generator
from mgd3_fast.versions import versions
from tests.fakes.pictures import photo

NODE = {"num_cpus": 1, "include_dashboard": False}
STAGES = ("encode", "discover", "sample")


def make_sources(folder: Path, classes: int, per_class: int) -> list[str]:
    """Make pictures and a generator, and return options of `distill`."""
    for label in range(classes):
        (folder / "pictures" / f"c{label:04d}").mkdir(parents=True)
        for number in range(per_class):
            photo(1000 * label + number).save(folder / "pictures" / f"c{label:04d}" / f"{number}.png")
    make_tiny_generator(folder / "generator", classes)
    return ["--dataset", str(folder / "pictures"), "--generator", str(folder / "generator")]


class Nodes:
    """A head without processors, which lives, and two nodes, which do not."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        self._nodes = [self._cluster.add_node(**NODE) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def kill_one(self, moments: random.Random) -> None:
        """Kill a node and all that runs on it, and have a new one join."""
        self._cluster.remove_node(self._nodes.pop(moments.randrange(len(self._nodes))), allow_graceful=False)
        self._nodes.append(self._cluster.add_node(**NODE))

    def shutdown(self) -> None:
        self._cluster.shutdown()


class Killed:
    """A run that is killed in pieces."""

    def __init__(self, options: list[str], folder: Path, name: str, nodes: Nodes, seed: int) -> None:
        address = ["--workers", "ray", "--ray-address", nodes.address]
        self._command = [word for word in command([*options, *address], folder, name) if word != "--quiet"]
        self._out, self._log = folder / name, folder / f"{name}.log"
        self._nodes, self._moments = nodes, random.Random(seed)
        self.kills: list[str] = []

    def run(self, node_in: str | None, driver_in: str | None) -> None:
        """Start the driver; kill a node in one stage and the driver in another, or wait for its end."""
        with self._log.open("ab") as log:
            begun = log.tell()
            driver = subprocess.Popen(self._command, stdout=log, stderr=log)
        for stage, kill in ((node_in, self._kill_node), (driver_in, driver.kill)):
            if stage is not None and self._wait(lambda stage=stage: self._is_in(stage, begun), driver):
                time.sleep(self._moments.uniform(0, 1.5))
                if driver.poll() is None:
                    kill()
                    self.kills.append(f"{'driver' if kill == driver.kill else 'node'} in {stage}")
        status = driver.wait(timeout=600)
        assert status == (0 if driver_in is None else -9), self._log.read_text()

    def _kill_node(self) -> None:
        self._nodes.kill_one(self._moments)

    def _wait(self, is_so: Callable[[], bool], driver: subprocess.Popen[bytes]) -> bool:
        while not is_so():
            if driver.poll() is not None:
                return False
            time.sleep(0.01)
        return True

    def _is_in(self, stage: str, begun: int) -> bool:
        if stage == "sample":
            return images_in(self._out) > 0
        said = self._log.read_bytes()[begun:]
        return {"encode": b"of latents into", "discover": b"discover: kmeans"}[stage] in said


def rehearse(folder: Path, rounds: int, classes: int, ipc: int, seed: int) -> dict[str, Any]:
    """Do one quiet run, then the rounds; see the module.

    Returns:
        Figures, JSON values only.
    """
    options = [*make_sources(folder, classes, ipc + 4), "--ipc", str(ipc), "--batch-size", "8"]
    subprocess.run(command([*options, "--workers", "1"], folder, "whole"), check=True)
    nodes, kills, differing = Nodes(), [], []
    try:
        for number in range(rounds):
            started, name = time.perf_counter(), f"round {number}"
            run = Killed(options, folder, name, nodes, seed + number)
            run.run("encode", "discover")
            run.run("discover", "sample")
            run.run("sample", None)
            differing += compare(folder / "whole", folder / name)
            kills.append({"kills": run.kills, "seconds": round(time.perf_counter() - started, 1)})
            print(f"{name}: {kills[-1]}, {len(differing)} files differ", file=sys.stderr, flush=True)
    finally:
        nodes.shutdown()
    return {
        "options": options[-4:],
        "classes": classes,
        "rounds": kills,
        "kills": sum(len(one["kills"]) for one in kills),
        "images": images_in(folder / "whole"),
        "differing": differing,
        "left_over": leftovers(folder),
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs that are killed in pieces (default: 3)")
    parser.add_argument("--classes", type=int, default=40, help="classes (default: 40)")
    parser.add_argument("--ipc", type=int, default=16, help="images per class (default: 16)")
    parser.add_argument("--moments-seed", type=int, default=0, help="seed of the moments (default: 0)")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        figures = rehearse(Path(folder), chosen.rounds, chosen.classes, chosen.ipc, chosen.moments_seed)
    report(figures, "a run that was killed differs from the quiet one")


if __name__ == "__main__":
    main()
