"""The Ray cluster that workers are placed on: found or started, and how many it has room for."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray prints the deaths of its workers on standard output, where results are; ours are told in notes.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

from mgd3_fast.errors import UserError, missing, shortened

try:
    import ray
except ImportError:
    raise missing("--workers ray needs Ray", "ray") from None

__all__ = ["connected", "needs_of", "ray", "room_for"]

_ANSWER_S = 5.0


@contextmanager
def connected(address: str | None, **settings: Any) -> Iterator[None]:
    """Be a driver of a cluster in the block; where this process is one already, of that one.

    Args:
        address: HOST:PORT of its head; by default $RAY_ADDRESS, the cluster of which this machine is a node,
            or one that is started here and ends with the block.
        settings: Of `ray.init`.

    Raises:
        UserError: Nothing answers there.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    _check_answers(address)
    try:
        with _own_sigterm(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
            ray.init(address, **quiet, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise UserError(f"no Ray cluster could be used at {address or 'this machine'}: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's prints a stack and aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def needs_of(device: str) -> dict[str, int]:
    """What one worker takes: a GPU, or a processor where none is wanted or the cluster has none."""
    if device == "cpu" or (device == "auto" and not ray.cluster_resources().get("GPU")):
        return {"num_cpus": 1}
    return {"num_gpus": 1, "num_cpus": 0}


def room_for(needs: dict[str, int]) -> int:
    """Workers that the nodes of the cluster have room for at this moment."""
    return int(ray.cluster_resources().get("GPU" if "num_gpus" in needs else "CPU", 0))


def _check_answers(address: str | None) -> None:
    """Ray itself tries for more than ten minutes."""
    if address in (None, "auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if "//" in address or not colon or not port.isdecimal():
        raise UserError(
            "--ray-address and $RAY_ADDRESS must be HOST:PORT of the head of a Ray cluster, got"
            f" {address}: start mgd3-fast on a node of the cluster, as `ray job submit` does"
        )
    try:
        socket.create_connection((host, int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray-address and $RAY_ADDRESS must be of a running Ray cluster, got {address}: {error}"
        ) from None
