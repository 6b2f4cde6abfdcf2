"""Which kind of workers does what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mgd3_fast.devices import worker_devices
from mgd3_fast.progress import Progress
from mgd3_fast.workers.base import Place, Setup, ThisProcess, Workers


def open_workers(
    workers: int | str,
    setup: Setup,
    progress: Progress,
    *,
    device: str = "auto",
    ray_address: str | None = None,
    shared: Sequence[Path] = (),
) -> Workers:
    """Open the workers of a command; none is started before it has a unit.

    Args:
        workers: How many; auto is one for every GPU of this machine, one on a CPU; ray is as many as a Ray
            cluster has room for.
        setup: Prepares a worker.
        progress: Receives what workers tell, and who died.
        device: auto, cpu, cuda or cuda:N.
        ray_address: HOST:PORT of the Ray cluster; by default the one that Ray finds, or a new one.
        shared: Folders that workers on other machines must see.

    Raises:
        UserError: Ray is missing.
    """
    if workers == "ray":
        from mgd3_fast.workers.on_ray import RayWorkers

        return RayWorkers(setup, device, progress, ray_address, shared)
    devices = worker_devices(workers, device)
    if len(devices) == 1:
        return ThisProcess(setup, Place(device=devices[0], progress=progress))
    from mgd3_fast.workers.local import LocalWorkers

    return LocalWorkers(setup, devices, progress)
