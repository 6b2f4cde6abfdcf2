"""What is given up for a budget, and in which order."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from mgd3_fast.compare.budget import TimeLimit, choose_methods, choose_repeats, time_limit
from mgd3_fast.config.compare import METHODS, CompareConfig
from mgd3_fast.config.fields import read_budget
from mgd3_fast.errors import UserError
from mgd3_fast.interruption import postponed_interrupt


@pytest.mark.parametrize(
    ("budget_s", "kept"),
    [
        (65.0, METHODS),
        (64.9, METHODS[:-1]),  # all real images, 50 of 65 s
        (10.0, METHODS[:-1]),  # two repeats of five methods
        (9.9, ("mgd3", "unguided", "random", "kmeans-closest")),
        (7.9, ("mgd3", "random", "kmeans-closest")),
        (5.9, ("mgd3", "kmeans-closest")),
        (0.0, ("mgd3", "kmeans-closest")),
    ],
)
def test_methods_are_given_up_in_the_stated_order(budget_s: float, kept: tuple[str, ...]) -> None:
    left_s = {method: [1.0] * 3 for method in METHODS} | {"all-real": [50 / 3] * 3}
    assert choose_methods(left_s, budget_s) == kept


def test_what_is_done_is_not_given_up() -> None:
    left_s = {"mgd3": [5.0] * 3, "herding": [0.0, 0.0, 5.0], "all-real": [0.0] * 3}
    assert choose_methods(left_s, 1.0) == tuple(left_s)


@pytest.mark.parametrize(("budget_s", "repeats"), [(9.0, 3), (8.9, 2), (3.0, 1), (0.0, 1)])
def test_as_many_repeats_as_fit(budget_s: float, repeats: int) -> None:
    assert choose_repeats({"mgd3": [1.0, 1.0, 1.0], "random": [2.0, 2.0, 2.0]}, budget_s) == repeats
    assert choose_repeats({"mgd3": [0.0, 0.0, 9.0]}, budget_s) == (3 if budget_s == 9.0 else 2)


def test_a_limit_ends_the_block_as_an_interrupt() -> None:
    limit, waited = TimeLimit(0.05), threading.Event()
    with pytest.raises(KeyboardInterrupt), time_limit(limit):
        waited.wait(20)
    assert limit.reached
    assert limit.left_s == 0


def test_a_limit_that_is_not_reached_leaves_nothing_behind() -> None:
    before, limit = signal.getsignal(signal.SIGALRM), TimeLimit(60.0)
    with time_limit(limit):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    assert not limit.reached
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_limit_waits_for_the_step_as_an_interrupt_does() -> None:
    """Also where Ctrl-C is ignored, as in the background of a shell, and only SIGTERM is heeded."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        limit = TimeLimit(0.5)  # time to get into the block
        with time_limit(limit), postponed_interrupt() as interrupted:
            while not limit.reached:
                threading.Event().wait(0.01)
            assert interrupted()
    finally:
        signal.signal(signal.SIGINT, previous[0])
        signal.signal(signal.SIGTERM, previous[1])


# Options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("1h30m", 5400), ("1.5h", 5400), ("1h", 3600), ("2h1m5s", 7265)],
)
def test_budgets(text: str, seconds: float) -> None:
    assert read_budget(text) == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"budget": text}, f"budget must be a time such as 45s, 90m or 1h30m, got '{text}'")
            for text in ("1", "h", "30m1h", "0s", "-5m", "1 h")
        ),
        ({"ipc": "1,ten"}, "ipc must be whole numbers separated by commas, such as 1,10, got '1,ten'"),
        ({"ipc": (1, 0)}, "ipc must be a whole number of at least 1, got 0"),
        ({"methods": ("mgd3", "d4m")}, "methods must be among mgd3, unguided, random, .*, got 'd4m'"),
        ({"methods": ()}, "methods must be among .*, got none"),
        ({"size": 4}, "size must be a whole number from 8 to 8192, got 4"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CompareConfig(**{"dataset": "mnist5k", "ipc": (1,)} | options)
