"""Workers that are actors of a Ray cluster, on whatever nodes it has and gets.

Ray places actors and tells when they die. Everything else is as with processes of this machine: a `Pool`
hands units out, and an actor has a `Server` to do them. Actors die with their driver.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mgd3_fast.errors import UserError, shortened
from mgd3_fast.progress import Progress
from mgd3_fast.versions import versions
from mgd3_fast.workers.base import Setup
from mgd3_fast.workers.node import Driver, Facts, check_fit
from mgd3_fast.workers.pool import TRIES, Message, Pool, Unit, Worker
from mgd3_fast.workers.ray_actor import Actor
from mgd3_fast.workers.ray_cluster import connected, needs_of, ray, room_for
from mgd3_fast.workers.serving import Task
from mgd3_fast.workers.tokens import left_in

_LOOK_S = 2.0  # how often the size of the cluster is looked at
_PATIENCE_S = 30.0  # how often it is said that no worker was placed
_VARIABLES = ("MGD3_CACHE", "IMAGENET_DIR", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")


class RayWorkers(Pool["_Placed"]):
    """Actors of one GPU each, or of one processor; twice as many as there is room for are asked for.

    Those that have no room wait: they are placed where others die or nodes join, and a cluster that grows by
    itself grows for them.

    Args:
        setup: Prepares a worker.
        device: auto, cpu or cuda.
        progress: Receives what they tell, and who died.
        address: Of the cluster; see `connected`.
        shared: Folders that all workers must see.
    """

    def __init__(
        self, setup: Setup, device: str, progress: Progress, address: str | None, shared: Sequence[Path]
    ) -> None:
        super().__init__(progress)
        self._setup, self._device, self._address, self._shared = setup, device, address, shared
        self._held = ExitStack()
        self._room, self._looked = 1, 0.0
        self._numbers = 0
        self._lost_early = 0
        self._gpu: str | None = None

    def __enter__(self) -> RayWorkers:
        with self._held:
            with self._progress.activity("connecting to Ray"):
                self._held.enter_context(connected(self._address))
            tokens = self._held.enter_context(left_in(self._shared))
            self._held = self._held.pop_all()
        environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        self._driver = Driver(str(Path.cwd()), environment, tokens)
        self._needs = needs_of(self._device)
        # Those of a driver that was killed may be alive yet, and have files open by their numbers.
        job = int.from_bytes(bytes.fromhex(ray.get_runtime_context().get_job_id()), "little")
        self._numbers = 1000 * (job - 1)
        self._placed_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if isinstance(error, KeyboardInterrupt):  # SIGTERM leaves few seconds; what is done is on disk
                for worker in self._workers.values():
                    ray.kill(worker.actor)
            super().__exit__(kind, error, trace)

    @property
    def count(self) -> int:
        """Workers that the cluster had room for a moment ago."""
        if time.monotonic() - self._looked > _LOOK_S:
            self._room, self._looked = max(1, room_for(self._needs)), time.monotonic()
        return self._room

    def _start(self, needed: int) -> None:
        idle = sum(not worker.doing for worker in self._workers.values())
        for _ in range(min(needed - idle, 2 * self.count - len(self._workers))):
            self._numbers += 1
            self._workers[self._numbers] = _Placed.start(self._numbers, self._needs, self._driver)

    def _heard(self) -> Iterator[tuple[_Placed, Message | None]]:
        by_messages = {worker.messages: worker for worker in self._workers.values()}
        everyone = list(by_messages)
        ready, _ = ray.wait(everyone, timeout=_LOOK_S)
        if ready:
            ready, _ = ray.wait(everyone, num_returns=len(everyone), timeout=0)
        elif not any(worker.takes_units for worker in self._workers.values()):
            self._wait_patiently()
        for messages in ready:
            worker = by_messages[messages]
            message = worker.next_message()
            if isinstance(message, Facts):
                self._welcome(worker, message)
            else:
                yield worker, message

    def _welcome(self, worker: _Placed, found: Facts) -> None:
        """Give a worker that was placed what it needs, if it is fit."""
        for line in check_fit(found, versions(), self._gpu):
            if self._progress.is_first(line):
                self._progress.note(f"warning: {line}")
        self._gpu, self._lost_early, worker.facts = found.gpu, 0, found
        device = "cuda" if "num_gpus" in self._needs else "cpu"
        worker.put(Task(self._setup, worker.number, device, self._progress.quiet))

    def _bury(self, worker: _Placed) -> list[Unit]:
        undone = super()._bury(worker)
        if worker.facts is None:
            self._lost_early += 1
            if worker.cannot_start or self._lost_early >= TRIES * self.count:
                raise UserError(
                    f"all nodes must have what this machine has installed, but {worker.name} {worker.how}"
                )
        return undone

    def _wait_patiently(self) -> None:
        if time.monotonic() - self._placed_at > _PATIENCE_S:
            self._placed_at = time.monotonic()
            kind = "GPU" if "num_gpus" in self._needs else "processor"
            self._progress.note(
                f"waiting for Ray to place a worker, which takes one {kind}: the cluster has"
                f" {room_for(self._needs)}, and they may be in use"
            )


@dataclass
class _Placed(Worker):
    """A worker that is an actor, or will be one where there is room for it; `facts` are there once it is."""

    actor: Any
    messages: Any
    facts: Facts | None = None
    error: Exception | None = None

    @classmethod
    def start(cls, number: int, needs: dict[str, int], driver: Driver) -> _Placed:
        """Ask for an actor."""
        actor = ray.remote(Actor).options(max_concurrency=2, **needs).remote()
        return cls(number, actor, actor.hear.options(num_returns="streaming").remote(driver))

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"worker {self.number}" + (f" on {self.facts.node}" if self.facts else "")

    @property
    def takes_units(self) -> bool:
        """Whether it was placed and is fit."""
        return self.facts is not None

    @property
    def how(self) -> str:
        """How it ended."""
        return "ended" if self.error is None else how_it_died(self.error)

    @property
    def cannot_start(self) -> bool:
        """Whether its node cannot make such an actor at all."""
        return "creation task" in str(self.error)

    def put(self, message: Any) -> None:
        """Send a message."""
        self.actor.put.remote(message)

    def close(self) -> None:
        """Send the last message."""
        self.put(None)

    def next_message(self) -> Any:
        """Take a message that is there; None is its end."""
        try:
            return ray.get(next(self.messages))
        except StopIteration:
            return None
        except ray.exceptions.RayError as error:
            self.error = error
            return None

    def end(self, until: float) -> str:
        """Hear it to its end, kill it when time is over, and say how Ray says that it ended."""
        while self.facts and ray.wait([self.messages], timeout=max(0.0, until - time.monotonic()))[0]:
            if self.next_message() is None:
                break
        ray.kill(self.actor)
        return self.how


def how_it_died(error: Exception) -> str:
    """What matters of the dozen lines that Ray writes of a death."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    dead = [line for line in lines if line.startswith("The actor is dead because ")]
    if not dead:
        return f"was lost: {shortened(lines[-1], 150)}"
    reason = dead[0].removeprefix("The actor is dead because ").split(". ")[0].rstrip(".")
    short = " (memory was short)" if "running low on memory" in str(error) else ""
    return f"was lost: {shortened(reason, 150)}{short}"
