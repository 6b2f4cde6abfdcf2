"""What runs on a node of a Ray cluster: a worker's `Server`, and what the driver must know of the node."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mgd3_fast.versions import versions
from mgd3_fast.workers.node import Driver, Facts
from mgd3_fast.workers.ray_cluster import ray
from mgd3_fast.workers.serving import Server


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
        yield _facts(driver.tokens)
        threading.Thread(target=self._serve, name="work", daemon=True).start()
        while (message := self._outbox.get()) is not None:
            yield message

    def poll(self) -> bool:
        """Whether a message to the server is there."""
        return not self._inbox.empty()

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
    if not _has_gpu():
        return 1
    (node,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    return max(1, int(node.get("CPU", 0) // node["GPU"]))


def _has_gpu() -> bool:
    return bool(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def _facts(tokens: Sequence[Path]) -> Facts:
    """Look at this process and its machine."""
    gpu = None
    if _has_gpu():
        import torch

        gpu = torch.cuda.get_device_name()
    unseen = tuple(token for token in tokens if not token.exists())
    return Facts(socket.gethostname(), gpu, versions(), unseen)
