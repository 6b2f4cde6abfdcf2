"""Learning rates as shares of the highest one, over steps or epochs."""

from __future__ import annotations

import math

_STEP_FACTOR = 0.2
_WARMUP_START = 1e-7


def rate_share(schedule: str, done: int, total: int, *, warmup: int = 0) -> float:
    """Share of the highest learning rate that a step or an epoch has.

    With e = `done` and E = `total`, both counted from the end of the warm-up: "constant": 1. "cosine":
    (1 + cos(pi e / E)) / 2, down to zero. "steps": 1, 0.2 from 2E//3, 0.04 from 5E//6 (IDC). "half-cosine":
    (1 + cos(pi e / 2E)) / 2, which ends at one half (RDED). "warmup-cosine": from 1e-7 to 1 in a line over
    E//2, held for one more, then (1 + cos(pi k / (E//2))) / 2 (GLaD).

    Args:
        schedule: Name of the schedule.
        done: Steps or epochs done.
        total: All of them.
        warmup: How many of them the rate rises over in a line, from 1 / `warmup`.

    Raises:
        ValueError: No such schedule.
    """
    if done < warmup:
        return (done + 1) / warmup
    e, E = done - warmup, total - warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _half_wave(math.pi * min(1.0, e / max(1, E)))
    if schedule == "half-cosine":
        return _half_wave(math.pi * e / (2 * E))
    if schedule == "steps":
        return float(_STEP_FACTOR ** ((e >= 2 * E // 3) + (e >= 5 * E // 6)))
    if schedule == "warmup-cosine":
        half = max(1, E // 2)
        if e <= half:
            return _WARMUP_START + (1 - _WARMUP_START) * e / half
        return _half_wave(math.pi * (e - half - 1) / half)
    raise ValueError(f"no learning rate schedule is called {schedule!r}")


def _half_wave(angle: float) -> float:
    return 0.5 * (1 + math.cos(angle))
