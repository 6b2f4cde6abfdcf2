"""Which kind of workers does what was asked for."""

from __future__ import annotations

from mgd3_fast.devices import worker_devices
from mgd3_fast.progress import Progress
from mgd3_fast.workers.base import Place, Setup, ThisProcess, Workers


def open_workers(workers: int | str, setup: Setup, progress: Progress, *, device: str = "auto") -> Workers:
    """Open the workers of a command; none is started before it has a unit.

    Args:
        workers: How many; auto is one for every GPU of this machine, one on a CPU.
        setup: Prepares a worker.
        progress: Receives what workers tell, and who died.
        device: auto, cpu, cuda or cuda:N.
    """
    devices = worker_devices(workers, device)
    if len(devices) == 1:
        return ThisProcess(setup, Place(device=devices[0], progress=progress))
    from mgd3_fast.workers.local import LocalWorkers

    return LocalWorkers(setup, devices, progress)
