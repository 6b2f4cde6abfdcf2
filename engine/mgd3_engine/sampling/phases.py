"""The steps of a run, split where guidance by modes, classifier-free guidance or caching sets in or ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mgd3_engine.sampling.feature_cache import FeatureCache
from mgd3_engine.sampling.guidance import ModeGuidance
from mgd3_engine.sampling.schedule import RespacedSchedule


@dataclass(frozen=True)
class Phase:
    """Steps that are alike.

    Args:
        steps: Respaced indices, descending.
        guided: Whether mode guidance acts.
        cfg: Whether classifier-free guidance acts, so that the network runs the null rows too.
        cached: Whether the network may keep and forecast between its steps.
    """

    steps: range
    guided: bool
    cfg: bool
    cached: bool = False


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


def cfg_steps(respaced: RespacedSchedule, first: int, interval: Sequence[int] | None) -> frozenset[int]:
    """Find the steps on which classifier-free guidance acts.

    Args:
        respaced: The schedule of the run.
        first: Respaced index that the run begins with.
        interval: Lowest and highest timestep, both included (Kynkäänniemi et al. 2024, as noise levels);
            None for every step.

    Returns:
        Respaced indices.

    Raises:
        ValueError: No step of the run lies in the interval.
    """
    steps = range(first + 1)
    if interval is None:
        return frozenset(steps)
    low, high = interval
    inside = frozenset(step for step in steps if low <= respaced.timesteps[step] <= high)
    if not inside:
        visited = respaced.timesteps[: first + 1]
        nearest = [*visited[visited < low][-1:], *visited[visited > high][:1]]
        raise ValueError(
            f"cfg_interval {low} to {high} holds none of the run's timesteps; the nearest are"
            f" {' and '.join(map(str, nearest))}"
        )
    return inside


def check_guides(t_stop: int, first: int) -> None:
    """Refuse mode guidance that acts on no step of a run, for a run without is asked for by `None`.

    Args:
        t_stop: Steps with an index above it are guided.
        first: Index of the run's first step, S - 1 for a run from noise.

    Raises:
        ValueError: No index is above `t_stop`.
    """
    if t_stop >= first:
        raise ValueError(
            f"t_stop must be below {first}, the index of the first step, for any step to be guided,"
            f" got {t_stop}; guidance=None or scale 0 is a run without mode guidance"
        )


def jumps(phases: Sequence[Phase]) -> list[int]:
    """First steps of the phases where x0 jumps, as guidance of either kind sets in or ends; the first too."""
    kinds = [(phase.guided, phase.cfg) for phase in phases]
    return [
        phase.steps[0]
        for phase, kind, before in zip(phases, kinds, [None, *kinds], strict=False)
        if kind != before
    ]


def split_steps(
    first: int, guidance: ModeGuidance | None, cfg: frozenset[int], cache: FeatureCache | None = None
) -> tuple[Phase, ...]:
    """Split the steps of a run into phases; guided is an index above `t_stop` (MGD3 Algorithm 1).

    Args:
        first: Respaced index that the run begins with.
        guidance: None, or scale 0, for no guided step.
        cfg: Steps with classifier-free guidance.
        cache: None, or an interval of 1, for no cached phase.

    Returns:
        The phases in the order they run.

    Raises:
        ValueError: Guidance of a scale above 0 acts on no step.
    """
    stop = first
    if guidance is not None and guidance.scale != 0.0:
        stop = guidance.stop(first + 1)
        check_guides(stop, first)
    start = -1
    if cache is not None and cache.interval > 1:
        start = stop if cache.start is None else cache.start
    alike = groupby(range(first, -1, -1), key=lambda step: (step > stop, step in cfg, step <= start))
    runs = [(key, list(steps)) for key, steps in alike]
    return tuple(Phase(range(steps[0], steps[-1] - 1, -1), *key) for key, steps in runs)


def plan_cache(phases: Sequence[Phase], cache: FeatureCache | None) -> dict[int, tuple[float, ...]]:
    """Plan the cached phases of a run.

    Args:
        phases: Of `split_steps`, with the same cache.
        cache: None for a run without.

    Returns:
        `FeatureCache.plan` of the cached phases; nothing where no step is forecast.

    Raises:
        ValueError: There is a cache of an interval above 1, and no step to forecast.
    """
    if cache is None or cache.interval == 1:
        return {}
    planned: dict[int, tuple[float, ...]] = {}
    for phase in phases:
        planned |= cache.plan(phase.steps) if phase.cached else {}
    if not any(planned.values()):
        most = max((len(phase.steps) for phase in phases if phase.cached), default=0)
        raise ValueError(
            f"cache must have more than {cache.order + 1} equal steps in a row with order {cache.order},"
            f" got {most}: take a higher start, a lower order or more steps"
        )
    return planned
