"""Learning rates of the protocols, as shares of the highest one."""

from __future__ import annotations

import math

_STEP_FACTOR = 0.2
_WARMUP_START = 1e-7


def rate_share(schedule: str, epoch: int, epochs: int) -> float:
    """Share of the highest learning rate in an epoch.

    "steps": 1, 0.2 from epoch 2E//3, 0.04 from 5E//6 (IDC). "half-cosine": (1 + cos(pi e / 2E)) / 2, which
    ends at one half (RDED). "warmup-cosine": from 1e-7 to 1 in a line over E//2 epochs, held for one more,
    then (1 + cos(pi k / (E//2))) / 2 (GLaD).

    Args:
        schedule: Name of the schedule.
        epoch: e, from 0.
        epochs: E.

    Returns:
        Number from 0 to 1.
    """
    if schedule == "half-cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))
    if schedule == "warmup-cosine":
        half = max(1, epochs // 2)
        if epoch <= half:
            return _WARMUP_START + (1 - _WARMUP_START) * epoch / half
        return 0.5 * (1 + math.cos(math.pi * (epoch - half - 1) / half))
    passed = (epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6)
    return float(_STEP_FACTOR**passed)
