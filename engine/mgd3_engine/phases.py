"""The steps of a run, split where mode guidance stops."""

from __future__ import annotations

from dataclasses import dataclass

from mgd3_engine.guidance import ModeGuidance


@dataclass(frozen=True)
class Phase:
    """Steps that are alike: all guided, or none.

    Args:
        name: "guided" or "unguided".
        steps: Respaced indices, descending.
    """

    name: str
    steps: range

    @property
    def guided(self) -> bool:
        """Whether mode guidance acts."""
        return self.name == "guided"


def split_steps(steps: int, guidance: ModeGuidance | None) -> tuple[Phase, ...]:
    """Split the steps: guided while the index is above `t_stop` (MGD3 Algorithm 1), then unguided.

    Args:
        steps: S.
        guidance: None, or scale 0, for no guided step.

    Returns:
        The phases that have a step, in the order they run.
    """
    stop = steps - 1
    if guidance is not None and guidance.scale != 0.0:
        stop = min(guidance.t_stop, steps - 1)
    phases = Phase("guided", range(steps - 1, stop, -1)), Phase("unguided", range(stop, -1, -1))
    return tuple(phase for phase in phases if phase.steps)
