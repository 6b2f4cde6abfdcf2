"""The interval of a paired difference, against a published table of Student's t."""

from __future__ import annotations

import pytest

from bench.studies.precision_quality import interval, summarise


def test_interval_of_five_pairs() -> None:
    """Mean 1, deviation sqrt(2.5), n = 5: t(0.975, 4) = 2.776 times sqrt(2.5 / 5)."""
    assert interval([-1.0, 0.0, 1.0, 2.0, 3.0]) == pytest.approx([1 - 1.963, 1 + 1.963], abs=0.006)


def test_differences_are_taken_seed_by_seed() -> None:
    fp32, fp8 = summarise({"fp32": [90.0, 80.0, 70.0], "fp8": [89.0, 79.0, 69.0]})
    assert fp32["interval_95"] is None
    assert (fp8["mean"], fp8["difference"], fp8["interval_95"]) == (79.0, -1.0, [-1.0, -1.0])
