"""Ctrl-C and SIGTERM: how soon a command ends after one, and what is finished first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE_S = 4.0
"""Seconds after SIGTERM in which a command may end in order."""
INTERRUPTED = 130
"""Exit status after Ctrl-C and SIGTERM."""

_saving = threading.Lock()


@contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send some seconds before they kill, like Ctrl-C, and end soon after it.

    Python runs a handler between two of its own instructions, and one call of a library may take minutes. The
    system's handler writes to a pipe at once, and a thread reads it: what has not ended in order `GRACE_S`
    seconds later is ended as it is. Files are written whole or not at all, so nothing finished is lost.
    Only the main thread may set handlers; elsewhere nothing happens.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, interrupt)
    outer = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    # A forked worker that is terminated must not end its parent through the pipe they share.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    watch = threading.Thread(target=_end_in_time, args=(read, ended), name="terminate", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(outer)
        signal.signal(signal.SIGTERM, previous)
        os.write(write, b"\0")  # lets the thread see that it is over
        watch.join()
        os.close(write)
        os.close(read)


def _end_in_time(read: int, ended: threading.Event) -> None:
    """Read the numbers of signals until the block is over; see `terminable`."""
    while not ended.is_set():
        if signal.SIGTERM in os.read(read, 64) and not ended.wait(GRACE_S):
            with _saving:
                print(
                    "mgd3-fast: interrupted in the middle of a step; what was finished is kept, and the same"
                    " command goes on from there",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(INTERRUPTED)


@contextmanager
def saving() -> Iterator[None]:
    """Write something large to the end: SIGTERM waits for the block."""
    with _saving:
        yield


@contextmanager
def postponed_interrupt() -> Iterator[Callable[[], bool]]:
    """Note the first SIGINT instead of raising; the second one raises at once.

    SIGTERM is treated alike where the program handles it at all, as the command line does.

    Yields:
        A function that says whether a signal has come. Outside the main thread none ever has.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = False
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    for number, handler in previous.items():
        if callable(handler):
            signal.signal(number, note)
    try:
        yield lambda: came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
