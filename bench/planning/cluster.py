"""Workers, units of work and the storage they share, as a discrete-event simulation.

A worker starts (its machine reads the weights once), takes a unit, does it while it reads and writes the
unit's bytes, takes the next. A stage begins when the one before has ended. A worker that dies loses its
unit, which another does, and is replaced.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import simpy

HOUR_S = 3600.0

Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Unit:
    """Seconds of a worker at its usual speed, and bytes that it reads and writes meanwhile."""

    seconds: float
    bytes: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Units that may be done in any order; `first_s` is added to the first that a worker does."""

    name: str
    units: tuple[Unit, ...]
    first_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What units are done on.

    Args:
        workers: How many.
        start_up_s: Seconds until one can work, its weights read.
        weights: Bytes that each machine reads before.
        workers_per_machine: That share one reading of the weights.
        stream: Bytes a second of one reader.
        storage: Bytes a second of all readers.
        deaths_per_hour: Of one worker, exponential.
        replaced_after_s: Seconds until a dead one's successor starts.
        slow_share: Share of the workers that are slow.
        slow_factor: Their time over the usual.
        jitter: Deviation of the logarithm of a unit's time.
    """

    workers: int
    start_up_s: float = 0.0
    weights: float = 0.0
    workers_per_machine: int = 8
    stream: float = 1e12
    storage: float = 1e15
    deaths_per_hour: float = 0.0
    replaced_after_s: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Seconds until the end of each stage, by its name, in order, and how many workers died."""

    ends: dict[str, float]
    deaths: int

    @property
    def seconds(self) -> float:
        """Until the end of the last stage."""
        return max(self.ends.values())


def simulate(stages: Sequence[Stage], cluster: Cluster, seed: int = 0) -> Outcome:
    """Do all stages on a cluster; the same seed gives the same outcome."""
    run = _Run(stages, cluster, seed)
    run.env.run(until=run.progress[-1].ended)
    return Outcome({one.stage.name: one.ended.value for one in run.progress}, run.deaths)


class _Progress:
    """What is left of a stage."""

    def __init__(self, env: simpy.Environment, stage: Stage) -> None:
        self._env, self.stage = env, stage
        self.waiting, self.left = list(reversed(stage.units)), len(stage.units)
        self.ended, self.changed = env.event(), env.event()

    def finish(self) -> None:
        self.left -= 1
        if not self.left:
            self.ended.succeed(self._env.now)
            self._tell()

    def give_back(self, unit: Unit) -> None:
        self.waiting.append(unit)
        self._tell()

    def _tell(self) -> None:
        """Wake those that wait for a lost unit or for the end."""
        told, self.changed = self.changed, self._env.event()
        told.succeed()


class _Run:
    def __init__(self, stages: Sequence[Stage], cluster: Cluster, seed: int) -> None:
        self.env, self.cluster, self.deaths = simpy.Environment(), cluster, 0
        self.progress = [_Progress(self.env, stage) for stage in stages]
        self.streams = simpy.Resource(self.env, max(1, round(cluster.storage / cluster.stream)))
        for first in range(0, cluster.workers, cluster.workers_per_machine):
            weights = self.env.process(self._move(cluster.weights))
            for number in range(first, min(first + cluster.workers_per_machine, cluster.workers)):
                self.env.process(self._worker(Random(f"{seed} {number}"), weights))

    def _worker(self, random: Random, weights: simpy.Event) -> Steps:
        slowness = self.cluster.slow_factor if random.random() < self.cluster.slow_share else 1.0
        yield weights
        yield self.env.timeout(self.cluster.start_up_s)
        death = self._death(random)
        for progress in self.progress:
            warm = False
            while progress.left:
                if not progress.waiting:
                    yield progress.changed
                    continue
                unit = progress.waiting.pop()
                seconds = unit.seconds * random.lognormvariate(0.0, self.cluster.jitter)
                seconds += 0.0 if warm else progress.stage.first_s
                work = self.env.process(self._do(unit.bytes, seconds * slowness))
                yield work | death
                warm = work.triggered
                if work.triggered:
                    progress.finish()
                    continue
                progress.give_back(unit)
                yield from self._replaced()
                death = self._death(random)

    def _death(self, random: Random) -> simpy.Event:
        rate = self.cluster.deaths_per_hour / HOUR_S
        return self.env.timeout(random.expovariate(rate)) if rate else self.env.event()

    def _replaced(self) -> Steps:
        self.deaths += 1
        yield self.env.timeout(self.cluster.replaced_after_s)
        yield self.env.process(self._move(self.cluster.weights))
        yield self.env.timeout(self.cluster.start_up_s)

    def _do(self, moved: float, seconds: float) -> Steps:
        yield self.env.process(self._move(moved)) & self.env.timeout(seconds)

    def _move(self, moved: float) -> Steps:
        """Read or write bytes over one stream, when one is free."""
        if not moved:
            return
        with self.streams.request() as stream:
            yield stream
            yield self.env.timeout(moved / self.cluster.stream)
