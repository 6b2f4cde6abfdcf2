"""Who is trained for how long: successive halving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mgd3_fast.config.tune import MOST_SEEDS
from mgd3_fast.errors import UserError

FEWEST_SEEDS = 3
FEWEST_CANDIDATES = 4
EPOCH_HALVINGS = 3  # a whole training may be cut to an eighth of its epochs


@dataclass(frozen=True)
class Round:
    """So many candidates, each with the same seeds, trained for so many epochs."""

    candidates: int
    seeds: int
    epochs: int


@dataclass(frozen=True)
class Units:
    """Seconds that parts of a trial take: a set of images, a training before its first epoch, an epoch."""

    set_s: float
    training_s: float
    epoch_s: float


def halving(candidates: int, seeds: int, epochs: int) -> tuple[Round, ...]:
    """Plan rounds that cost alike: half of the candidates go on, with twice the training.

    Successive halving (Jamieson and Talwalkar 2016, Figure 3): ceil(log2 n) rounds, each arm of round k with
    the budget B / (|S_k| ceil(log2 n)). An arm's budget is epochs times seeds; it goes into epochs first. The
    present default is kept to the end beside those that earn it, as what the others are paired with.

    Args:
        candidates: n, at least 2, the default among them.
        seeds: Of the last round.
        epochs: Of a training of the last round.
    """
    count = max(1, (candidates - 1).bit_length())  # ceil(log2 n)
    rounds = []
    for k in range(count):
        budget = max(1, (seeds * epochs) >> (count - 1 - k))
        of_round = max(1, budget // epochs)
        rounds.append(Round(-(-candidates // 2**k), of_round, min(epochs, budget)))
    return tuple(rounds)


def cost_s(rounds: tuple[Round, ...], units: Units) -> float:
    """Seconds of a plan: every set of images is made once, every training done anew.

    Args:
        rounds: The plan.
        units: What was timed.
    """
    made, seconds = 0, 0.0
    for one in rounds:
        arms = one.candidates + (one is not rounds[0])  # with the default, should it not be among them
        training_s = units.training_s + one.epochs * units.epoch_s
        seconds += arms * (one.seeds * training_s + max(0, one.seeds - made) * units.set_s)
        made = max(made, one.seeds)
    return seconds


def fitting(most: int, epochs: int, units: Units, budget_s: float) -> tuple[Round, ...]:
    """Find the largest plan that fits a budget: fewer candidates, then fewer seeds, then shorter trainings.

    Args:
        most: Candidates there are.
        epochs: Of the protocol's whole training.
        units: What was timed.
        budget_s: What may be spent.

    Raises:
        UserError: Not even the smallest plan fits; the message says what it takes.
    """
    least_s = float("inf")
    for rounds in _plans(most, epochs):
        seconds = cost_s(rounds, units)
        if seconds <= budget_s:
            return rounds
        least_s = min(least_s, seconds)
    raise UserError(
        f"the smallest plan takes about {-(-least_s // 60):.0f} min here ({units.set_s:.3g} s for a set of"
        f" images, {units.training_s:.3g} s and {units.epoch_s:.3g} s an epoch for a training), and"
        f" {max(0.0, budget_s) / 60:.3g} min of --budget are left: raise it, or give fewer --epochs"
    )


def _plans(most: int, epochs: int) -> Iterator[tuple[Round, ...]]:
    sizes = sorted({most, max(FEWEST_CANDIDATES, most // 2), FEWEST_CANDIDATES}, reverse=True)
    for shorter in range(EPOCH_HALVINGS + 1):
        for seeds in (MOST_SEEDS, FEWEST_SEEDS):
            for size in sizes:
                yield halving(size, seeds, max(1, epochs >> shorter))
