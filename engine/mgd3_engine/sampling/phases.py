"""The steps of a run, split where mode guidance stops."""

from __future__ import annotations

from dataclasses import dataclass

from mgd3_engine.sampling.guidance import ModeGuidance


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


def first_step(steps: int, start_strength: float | None) -> int:
    """Find the first index of a run that starts from noised modes: the last `start_strength` of the steps.

    Args:
        steps: S.
        start_strength: Share of the steps that are run, above 0 and at most 1; None for all, from noise.

    Returns:
        Respaced index, S - 1 for a run from noise.

    Raises:
        ValueError: The share is out of range, or of no whole step.
    """
    if start_strength is None:
        return steps - 1
    if not 0.0 < start_strength <= 1.0 or int(steps * start_strength) < 1:
        raise ValueError(
            f"start_strength must be above 0, at most 1 and at least one of {steps} steps,"
            f" got {start_strength}"
        )
    return int(steps * start_strength) - 1


def split_steps(first: int, guidance: ModeGuidance | None) -> tuple[Phase, ...]:
    """Split the steps: guided while the index is above `t_stop` (MGD3 Algorithm 1), then unguided.

    Args:
        first: Respaced index that the run begins with.
        guidance: None, or scale 0, for no guided step.

    Returns:
        The phases that have a step, in the order they run.
    """
    stop = first
    if guidance is not None and guidance.scale != 0.0:
        stop = min(guidance.t_stop, first)
    phases = Phase("guided", range(first, stop, -1)), Phase("unguided", range(stop, -1, -1))
    return tuple(phase for phase in phases if phase.steps)
