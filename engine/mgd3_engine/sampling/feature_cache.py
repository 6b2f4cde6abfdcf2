"""Caching between steps: which steps run a network's blocks, and what the others take in their place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_ORDER = 2


@dataclass(frozen=True)
class FeatureCache:
    """Run the blocks of a DiT on every N-th step, and forecast on the others what they would add.

    What is kept is one tensor a computed step: the sum of all that the blocks add to the tokens. Order 0
    reuses the last one (FORA, Selvaraju et al. 2024), orders 1 and 2 continue the last ones by finite
    differences (TaylorSeer, Liu et al. 2025). Patch embedding, adaLN of the last layer and the last layer are
    computed on every step. The schedule is fixed before the run.

    Args:
        interval: N; 1 computes every step.
        order: 0, 1 or 2. The first order + 1 steps of a phase are computed.
        start: Highest respaced index that may be forecast; None: mode guidance's `t_stop`, all without it.

    Raises:
        ValueError: A value is out of range.
    """

    interval: int
    order: int = 0
    start: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("interval", 1), ("order", 0), ("start", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < lowest):
                raise ValueError(f"cache {name} must be a whole number of at least {lowest}, got {value!r}")
        if self.order > MOST_ORDER:
            raise ValueError(f"cache order must be from 0 to {MOST_ORDER}, got {self.order}")

    def plan(self, steps: Sequence[int]) -> dict[int, tuple[float, ...]]:
        """Plan a phase.

        Args:
            steps: Respaced indices, descending.

        Returns:
            By step, the weights of what the last computed steps kept, newest first; none for one that is
            computed itself.
        """
        computed: list[int] = []
        planned: dict[int, tuple[float, ...]] = {}
        for place, step in enumerate(steps):
            if place <= self.order or (place - self.order) % self.interval == 0:
                computed.insert(0, step)
                planned[step] = ()
            else:
                planned[step] = taylor_weights(computed[: self.order + 1], step)
        return planned


def taylor_weights(computed: Sequence[int], step: int) -> tuple[float, ...]:
    """Weights of computed features F in their Taylor forecast at another step (TaylorSeer, Liu et al. 2025).

    F(s) = sum_i (s - s_0)^i F[s_0 .. s_i], derivatives by divided differences: with N steps between computed
    ones the paper's sum of (s - s_0)^i Delta^i F / (i! N^i).

    Args:
        computed: s_0, s_1, ..: respaced indices, newest first.
        step: s.

    Returns:
        One weight for each of `computed`; they add up to 1.
    """
    ahead = step - computed[0]
    return tuple(
        sum(
            ahead**order / math.prod(one - other for other in computed[: order + 1] if other != one)
            for order in range(place, len(computed))
        )
        for place, one in enumerate(computed)
    )
