"""What fits into a time: fewer repeats first, then fewer methods; the protocol is never changed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from mgd3_fast.config.compare import ALL_REAL

LEAST_REPEATS = 2  # one alone has no interval
LEFT_OUT_FIRST = ("herding", "unguided", "random")
_SOON_S = 1e-3  # a timer of 0 s never rings


def choose_methods(left_s: Mapping[str, Sequence[float]], budget_s: float) -> tuple[str, ...]:
    """Choose the methods whose trainings fit into a time.

    All real images, which no set is expected to reach, are left out unless all repeats of everything fit.
    Then repeats are given up, down to two, and then methods: herding, unguided, random. What costs nothing,
    because it is there, stays.

    Args:
        left_s: Seconds that every repeat of a method will take, 0 where it is done.
        budget_s: The time.
    """
    kept = list(left_s)
    if _seconds(left_s, kept) > budget_s and sum(left_s.get(ALL_REAL, ())) > 0:
        kept.remove(ALL_REAL)
    for method in LEFT_OUT_FIRST:
        fits = _seconds(left_s, kept, LEAST_REPEATS) <= budget_s
        if not fits and method in kept and sum(left_s[method][:LEAST_REPEATS]) > 0:
            kept.remove(method)
    return tuple(kept)


def choose_repeats(left_s: Mapping[str, Sequence[float]], budget_s: float) -> int:
    """The most repeats, at least one, of all methods that fit into a time; see `choose_methods`."""
    repeats = len(next(iter(left_s.values())))
    fitting = (count for count in range(repeats, 1, -1) if _seconds(left_s, left_s, count) <= budget_s)
    return next(fitting, 1)


def _seconds(
    left_s: Mapping[str, Sequence[float]], methods: Iterable[str], repeats: int | None = None
) -> float:
    return sum(sum(left_s[method][:repeats]) for method in methods)


class TimeLimit:
    """An amount of time, counted from when this is made."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds
        self.reached = False

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._ends_at - time.monotonic())


@contextmanager
def time_limit(limit: TimeLimit) -> Iterator[None]:
    """End the block at a limit as Ctrl-C does, so that what is done is kept, and `reached` is set.

    Only the main thread has such a clock; elsewhere nothing ends early.

    Raises:
        KeyboardInterrupt: The limit was reached.
    """

    def end(number: int, frame: FrameType | None) -> None:
        limit.reached = True
        for like in (signal.SIGINT, signal.SIGTERM):  # either may be ignored, as in a shell's background
            handler = signal.getsignal(like)
            if callable(handler):
                handler(like, frame)
                return
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(limit.left_s, _SOON_S))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
