"""Ctrl-C, or a scheduler's SIGTERM, between two steps instead of inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
