"""What runs on a node of a Ray cluster: a worker's `Server`, and what the driver must know of the node."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray

from mgd3_fast.versions import versions
from mgd3_fast.workers.serving import Server


class Driver(NamedTuple):
    """What a worker takes over of its driver.

    Args:
        folder: The current one, to which relative paths belong.
        environment: Variables by name.
        tokens: Files that the worker must see, because it shares their folders with all others.
    """

    folder: str
    environment: dict[str, str]
    tokens: Sequence[Path]


class Facts(NamedTuple):
    """What a worker says of itself before it is given anything.

    Args:
        node: Name of its machine.
        gpu: Model of its GPU, if it has one.
        versions: Of packages, by name.
        unseen: Tokens that it does not see.
    """

    node: str
    gpu: str | None
    versions: dict[str, str]
    unseen: tuple[Path, ...]


class Actor:
    """A worker that Ray has placed: `put` and `hear` are the two ends of its connection."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, message: Any) -> None:
        """Take a message, in order; None is the last one."""
        self._inbox.put(message)

    def hear(self, driver: Driver) -> Iterator[Any]:
        """Say what this worker is, then everything that its server says."""
        with suppress(OSError):
            os.chdir(driver.folder)
        os.environ.update(driver.environment, LOKY_MAX_CPU_COUNT=str(_share()))
        yield facts(driver.tokens)
        threading.Thread(target=self._serve, name="work", daemon=True).start()
        while (message := self._outbox.get()) is not None:
            yield message

    def recv(self) -> Any:
        """Wait for the next message to the server."""
        message = self._inbox.get()
        if message is None:
            raise EOFError
        return message

    def send(self, message: Any) -> None:
        """Have a message of the server heard."""
        self._outbox.put(message)

    def _serve(self) -> None:
        try:
            Server(self).run()
        finally:
            self._outbox.put(None)


def _share() -> int:
    """Processors for this worker: one, or with a GPU its part of those of the node."""
    here = ray.get_runtime_context()
    if not here.get_accelerator_ids()["GPU"]:
        return 1
    (node,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    return max(1, int(node.get("CPU", 0) // node["GPU"]))


def facts(tokens: Sequence[Path]) -> Facts:
    """Look at this process and its machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    unseen = tuple(token for token in tokens if not token.exists())
    return Facts(socket.gethostname(), gpu, versions(), unseen)
