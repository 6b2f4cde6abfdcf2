"""Processes that are killed at a moment of a test's choice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable


def kill_python(*words: str, once: Callable[[], bool], later_s: float = 0.0) -> None:
    """Start Python with these words, and send it SIGKILL, which nothing can catch, once something is so."""
    process = subprocess.Popen([sys.executable, *words])
    deadline = time.monotonic() + 300
    while not once():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(later_s)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
