"""What a command sets for its process, which is its own: quick imports, threads, memory kept for later.

A program that uses this package as a library decides such things itself: only the command line uses this.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mgd3_fast.devices import usable_processors
from mgd3_fast.storage.cache import default_cache_dir

_SPINS = "1000"
_BLOCK_BYTES = 2**25 - 2**16  # with its header below 32 MiB, from where on glibc learns nothing


@contextmanager
def loading() -> Iterator[None]:
    """Import a command's libraries in the block; where torch is there already, nothing else happens."""
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - pathlib raises
        # Without a home, libraries would keep their downloads in a folder called ~ of the current one.
        os.environ.setdefault("XDG_CACHE_HOME", str(default_cache_dir()))
    if "torch" in sys.modules:
        yield
        return
    # Modules stay until the process ends. To look for garbage among them again and again, at the end once
    # more, takes 0.6 of the 2.4 s that it takes to start, import torch and end.
    collecting = gc.isenabled()
    gc.disable()
    try:
        share_processors()
        yield
        gc.freeze()
    finally:
        if collecting:
            gc.enable()
    keep_freed_memory()


def share_processors() -> None:
    """Tell OpenMP, before it is loaded, to start as many threads as may run, and not to spin where they wait.

    GNU OpenMP's threads spin for about a millisecond where they wait for each other. On processors that are
    busy with other work they so spend the time that the awaited thread needs to get there: two threads were
    up to thirty times slower than these (`docs/measurements.md`). What the user set stays in force.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if "OMP_NUM_THREADS" not in os.environ and usable_processors() < len(os.sched_getaffinity(0)):
        os.environ["OMP_NUM_THREADS"] = str(usable_processors())


def keep_freed_memory() -> None:
    """Let glibc keep memory that a layer frees for the next one, instead of asking the system for it again.

    glibc takes blocks up to the size of the largest one of its own mapping that it has seen freed from its
    heap, and keeps twice that size when it is freed (mallopt(3), M_MMAP_THRESHOLD); it is shown one of
    nearly 32 MiB, the most that it takes into account, whose pages are never touched. Settings of the user's,
    such as MALLOC_TRIM_THRESHOLD_, stay in force, and other C libraries take no notice.
    """
    bytes(_BLOCK_BYTES)
