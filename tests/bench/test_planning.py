"""The simulation of a cluster gives what can be worked out by hand, and the committed plan is its result."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from bench.planning import imagenet1k, rates
from bench.planning.cluster import Cluster, Stage, Unit, simulate
from mgd3_fast.run.units import UNITS_PER_WORKER

EQUAL = (Unit(3.0),) * 8


def test_one_worker_starts_and_does_every_unit_in_turn() -> None:
    stages = (Stage("first", (Unit(3.0), Unit(4.0)), first_s=0.5), Stage("second", (Unit(5.0),)))
    outcome = simulate(stages, Cluster(workers=1, start_up_s=10.0))
    assert outcome.ends == {"first": 17.5, "second": 22.5}
    assert outcome.seconds == 22.5
    assert outcome.deaths == 0


@pytest.mark.parametrize(("workers", "rounds"), [(1, 8), (2, 4), (3, 3), (8, 1), (20, 1)])
def test_equal_units_take_as_many_rounds_as_there_are_turns(workers: int, rounds: int) -> None:
    assert (
        simulate([Stage("only", EQUAL)], Cluster(workers=workers, start_up_s=2.0)).seconds == 2 + 3 * rounds
    )


def test_a_stage_begins_when_the_one_before_has_ended() -> None:
    stages = (Stage("first", (Unit(1.0), Unit(9.0))), Stage("second", (Unit(1.0),) * 2))
    assert simulate(stages, Cluster(workers=2)).ends == {"first": 9.0, "second": 10.0}


def test_storage_gives_no_more_than_its_rate() -> None:
    moving = (Unit(0.0, bytes=1e9),) * 16
    cluster = Cluster(workers=8, stream=0.5e9, storage=1e9)
    assert simulate([Stage("only", moving)], cluster).seconds == pytest.approx(16.0)
    beside = (Unit(3.0, bytes=1e9),) * 2  # one stream moves a unit's bytes in 2 s, while it is done
    assert simulate([Stage("only", beside)], cluster).seconds == pytest.approx(3.0)


def test_each_machine_reads_the_weights_once() -> None:
    cluster = Cluster(workers=16, workers_per_machine=8, weights=4.0, stream=1.0, storage=1.0)
    assert simulate([Stage("only", (Unit(10.0),) * 16)], cluster).seconds == 4 + 4 + 10
    assert simulate([Stage("only", (Unit(10.0),) * 8)], cluster).seconds == 4 + 10


def test_a_dead_workers_unit_is_done_again_by_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    lives = iter((5.0, 1000.0))
    monkeypatch.setattr(Random, "expovariate", lambda *_: next(lives))
    cluster = Cluster(workers=1, start_up_s=1.0, deaths_per_hour=1.0, replaced_after_s=10.0)
    outcome = simulate([Stage("only", (Unit(4.0),) * 2)], cluster)
    assert outcome.seconds == 1 + 5 + 10 + 1 + 4  # dies one second into its second unit
    assert outcome.deaths == 1


def test_a_slow_worker_takes_its_factor_longer() -> None:
    cluster = Cluster(workers=1, slow_share=1.0, slow_factor=1.5)
    assert simulate([Stage("only", EQUAL)], cluster).seconds == pytest.approx(8 * 3 * 1.5)


def test_a_seed_decides_the_outcome() -> None:
    cluster = Cluster(workers=3, jitter=0.3, deaths_per_hour=300.0, replaced_after_s=1.0)
    once, again, other = (simulate([Stage("only", EQUAL)], cluster, seed) for seed in (0, 0, 1))
    assert once == again
    assert once.seconds != other.seconds


def test_the_units_of_a_run_cover_it() -> None:
    assert imagenet1k.divided(10, 4) == [2, 3, 2, 3]
    division = {imagenet1k.PER_WORKER: 16, imagenet1k.BATCHES: 2}
    for workers, parts in ((1, 1), (8, 128), (512, 1_000)):
        encode, discover, sample = imagenet1k.stages(division, workers)
        assert [len(one.units) for one in (encode, discover, sample)] == [parts, parts, 196]  # of 391 batches
        alone = imagenet1k.SOURCE_IMAGES / rates.ENCODE.value + parts * rates.UNIT_OVERHEAD.value
        assert sum(unit.seconds for unit in encode.units) == pytest.approx(alone)
        padded = 391 * 128 / rates.SAMPLE.value + 196 * rates.DRAIN.value / 1_000
        assert sum(unit.seconds for unit in sample.units) == pytest.approx(padded)


def test_the_committed_plan_is_what_the_code_finds() -> None:
    plan: dict[str, Any] = json.loads(imagenet1k.RESULT.read_text(encoding="utf-8"))
    assert {name: one["value"] for name, one in plan["figures"].items()} == {
        name: one.value for name, one in vars(rates).items() if isinstance(one, rates.Figure)
    }
    for name, over in plan["ratios"].items():
        assert plan["division"][name] == imagenet1k.least_worst({int(one): row for one, row in over.items()})
    assert plan["division"] == {imagenet1k.PER_WORKER: UNITS_PER_WORKER, imagenet1k.BATCHES: 1}
    storage = imagenet1k.cluster(64, rates.PARALLEL, rates.HARDWARE)
    row = next(row for row in plan["tables"]["parallel storage, own machines"] if row["workers"] == 64)
    found = imagenet1k.mean_seconds(plan["division"], storage, imagenet1k.SEEDS)
    assert row["total"] == pytest.approx(found, abs=1e-3)


def test_the_division_is_the_one_whose_worst_is_least() -> None:
    assert imagenet1k.least_worst({1: [1.0, 1.5], 2: [1.1, 1.2], 4: [1.25, 1.0], 8: [1.2, 1.0]}) == 2


def test_the_page_shows_the_committed_plan() -> None:
    plan = json.loads(imagenet1k.RESULT.read_text(encoding="utf-8"))
    page = (imagenet1k.PLOT.parents[1] / "cluster.md").read_text(encoding="utf-8")
    for storage in imagenet1k.STORAGES:
        for row in plan["tables"][f"{storage}, {imagenet1k.OWN}"]:
            seconds = " | ".join(f"{row[name]:.0f}" for name in ("encode", "discover", "sample", "total"))
            assert f"| {row['workers']:.0f} | {storage} | {seconds} | {row['efficiency']:.2f} |" in page
