"""Units of work done on several processes: what a unit is, and how it is done, is the caller's.

`base` is the interface; `local` has processes of this machine, `serving` is what runs in each of them.
"""

from mgd3_fast.workers.base import Begin, Place, Setup, WorkerError, Workers
from mgd3_fast.workers.opening import open_workers

__all__ = ["Begin", "Place", "Setup", "WorkerError", "Workers", "open_workers"]
