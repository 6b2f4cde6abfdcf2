"""Reads what GPUs have shown: each folder of bench/results/ with a gpu_checks.json is one sitting on a card.

`sampler_and_peers.json` beside it, where there is one, holds the sampler and its rivals, timed in one run
before there was a check for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

PEERS = {
    # name in the file: provider, precision
    "ours_eager": ("ours eager", "bf16"),
    "ours_compiled": ("ours compiled", "bf16"),
    "ours_compiled_fp8": ("ours compiled", "fp8"),
    "diffusers_compiled": ("diffusers compiled", "bf16"),
    "diffusers_eager": ("diffusers eager", "bf16"),
    "authors_fp32_one_by_one": ("authors", "fp32"),
}
RIVALS = ("diffusers_compiled", "diffusers_eager", "authors_fp32_one_by_one")


@dataclass(frozen=True)
class Sitting:
    """Results of one commit on one card.

    Args:
        folder: Where they lie.
        machine: Device, driver, versions, commit, time.
        checks: By name, as `checks.py` wrote them.
        peers: Sampler and rivals, or nothing.
    """

    folder: Path
    machine: Mapping[str, Any]
    checks: Mapping[str, Mapping[str, Any]]
    peers: Mapping[str, Any]

    @property
    def rates(self) -> dict[str, float]:
        """Images/s of the sampler and each rival, at 50 steps."""
        return {name: float(self.peers[name]["images_per_s_50"]) for name in PEERS if name in self.peers}

    @property
    def speedups(self) -> dict[str, float]:
        """How many times each rival's images/s the faster of our backends reaches in bf16."""
        rates = self.rates
        ours = max((rates[name] for name in ("ours_eager", "ours_compiled") if name in rates), default=None)
        return {} if ours is None else {name: ours / rates[name] for name in RIVALS if name in rates}


def read_sittings(results: Path) -> list[Sitting]:
    """Read every sitting whose code was committed, oldest first."""
    sittings = []
    for path in results.glob("*/gpu_checks.json"):
        report, peers = json.loads(path.read_text()), path.with_name("sampler_and_peers.json")
        if not report["machine"]["uncommitted_changes"]:
            found = json.loads(peers.read_text()) if peers.exists() else {}
            sittings.append(Sitting(path.parent, report["machine"], report["checks"], found))
    return sorted(sittings, key=lambda sitting: str(sitting.machine["when"]))


def records_of(sitting: Sitting) -> Iterator[dict[str, Any]]:
    """Flat records as `record.py` makes them, of the checks that had the GPU for themselves and of the peers.

    Args:
        sitting: The results.

    Yields:
        op "check NAME", metric the figure's path in it, as "256.share_of_copy", the median of a list; op
        "sampler_peers".
    """
    for name, result in sitting.checks.items():
        if result.get("alone_on_the_gpu"):
            origin = _origin(sitting, "gpu_checks.json", "the GPU checks")
            for metric, value in _numbers(result["figures"]):
                yield {"op": f"check {name}", "provider": "ours", "metric": metric, "value": value, **origin}
    origin = _origin(sitting, "sampler_and_peers.json", f"{sitting.peers.get('steps_timed')} steps timed")
    for name, rate in sitting.rates.items():
        provider, dtype = PEERS[name]
        rated = {"op": "sampler_peers", "metric": "rate", "value": rate}
        yield origin | rated | {"provider": provider, "unit": "images/s", "dtype": dtype}
    for name, ratio in sitting.speedups.items():
        compared = {"op": "sampler_peers", "metric": f"speedup_over_{name}", "value": ratio}
        yield origin | compared | {"provider": "ours", "dtype": "bf16"}


def _origin(sitting: Sitting, file: str, how: str) -> dict[str, Any]:
    machine = sitting.machine
    return {
        "size": "",
        "dtype": "",
        "unit": "1",
        "kind": "cuda",
        "device": f"{machine['device']}, driver {machine['driver']}",
        "threads": None,
        "versions": ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "triton")),
        "commit": machine["commit"],
        "uncommitted_changes": machine["uncommitted_changes"],
        "when": machine["when"],
        "bench_size": "full",
        "command": f"{how}: bench/results/{sitting.folder.name}/{file}",
    }


def _numbers(figures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}{name}.")
        elif isinstance(value, list) and value and all(isinstance(one, (int, float)) for one in value):
            yield path + name, median(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path + name, float(value)
