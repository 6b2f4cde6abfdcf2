"""Who is trained for how long, as a table; what fits a budget; which settings are tried."""

from __future__ import annotations

import pytest

from mgd3_fast.config import SamplingDefaults
from mgd3_fast.errors import UserError
from mgd3_fast.tune.candidates import EPSILON_FACTOR, Candidate, candidates
from mgd3_fast.tune.halving import EPOCH_HALVINGS, Round, Units, cost_s, fitting, halving

UNITS = Units(set_s=5.0, training_s=1.0, epoch_s=0.5)


@pytest.mark.parametrize(
    ("candidates_", "seeds", "epochs", "rounds"),
    [
        (2, 3, 100, [(2, 3, 100)]),
        (4, 4, 100, [(4, 2, 100), (2, 4, 100)]),
        (8, 3, 100, [(8, 1, 75), (4, 1, 100), (2, 3, 100)]),
        (14, 5, 300, [(14, 1, 187), (7, 1, 300), (4, 2, 300), (2, 5, 300)]),
        (8, 1, 2, [(8, 1, 1), (4, 1, 1), (2, 1, 2)]),
    ],
)
def test_half_go_on_with_twice_the_training(candidates_, seeds, epochs, rounds):
    assert halving(candidates_, seeds, epochs) == tuple(Round(*one) for one in rounds)


def test_cost_counts_each_set_once_and_every_epoch():
    rounds = (Round(4, 1, 10), Round(2, 3, 20))
    # 4 x (set, start and 10 epochs), then 2 and the default: 3 seeds x 20 epochs, and two more sets each.
    assert cost_s(rounds, Units(100.0, 5.0, 1.0)) == 4 * 115 + 3 * (3 * 25 + 2 * 100)


def test_the_largest_plan_that_fits_is_taken():
    costs = []
    for budget in (1e9, 3000, 1500, 700, 300):
        rounds = fitting(14, 64, UNITS, budget)
        costs.append(cost_s(rounds, UNITS))
        assert costs[-1] <= budget
    assert fitting(14, 64, UNITS, 1e9) == halving(14, 5, 64)
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


def test_a_budget_for_nothing_is_told_what_it_takes():
    smallest = cost_s(halving(4, 3, 64 >> EPOCH_HALVINGS), UNITS)
    with pytest.raises(
        UserError, match=r"smallest plan takes about \d min .* 0.5 min of --budget are left"
    ) as refusal:
        fitting(14, 64, UNITS, 30.0)
    minutes = int(str(refusal.value).split("about ")[1].split(" min")[0])
    assert fitting(14, 64, UNITS, 60.0 * minutes)
    assert smallest <= 60.0 * minutes


def test_present_defaults_come_first_and_unguided_second():
    tried = candidates(SamplingDefaults(steps=50, cfg_scale=2.0, mode_scale=0.1, t_stop=25))
    assert tried[:2] == (Candidate(0.1, 25, 2.0), Candidate(0.0, 0, 2.0))
    assert len(set(tried)) == len({one.name for one in tried}) == len(tried)
    assert Candidate(0.2, 0, 2.0) in tried
    assert {one.cfg_scale for one in tried} == {1.5, 2.0, 2.5}


@pytest.mark.parametrize("steps", [2, 4, 50])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_every_guided_candidate_has_a_guided_step(steps, sampler):
    defaults = SamplingDefaults(sampler=sampler, steps=steps, cfg_scale=1.0, t_stop=0)
    tried = candidates(defaults)
    assert all(one.t_stop < steps - 1 for one in tried if one.mode_scale)
    assert {one.cfg_scale for one in tried} == {1.0}  # without CFG there is none to tune
    factor = 1.0 if sampler == "ddpm" else EPSILON_FACTOR
    assert Candidate(round(0.2 * factor, 6), 0, 1.0) in tried
