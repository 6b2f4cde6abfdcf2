"""From measures to words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mgd3_fast.errors import LONGEST_LINE
from mgd3_fast.judge.verdict import Measures, verdict

FINE = Measures(
    psnr_db=26.0,
    l1_levels=5.0,
    accuracy=0.93,
    accuracy_real=0.97,
    majority=0.1,
    held_out=1000,
    coverage=0.7,
    coverage_real=0.8,
    density=1.2,
    density_real=0.9,
    novelty=1.0,
)


@pytest.mark.parametrize(
    ("changes", "word", "said"),
    [
        ({}, "good", "samples teach 95% of what as many real images do (93.0% against 97.0%"),
        ({"accuracy": 0.796}, "good", "samples teach 80%"),
        ({"accuracy": 0.79}, "usable", "samples teach 79%"),
        ({"accuracy": 0.53}, "poor", "samples teach 49%"),
        ({"accuracy": 0.02}, "poor", "samples teach 0%"),
        ({"psnr_db": 19.9}, "usable", "the autoencoder keeps 19.9 dB"),
        ({"psnr_db": 14.9, "accuracy": 0.7}, "poor", "14.9 dB of held-out images (20 is clear); samples"),
        ({"psnr_db": 18.0, "accuracy": 0.7}, "usable", "69% of what as many real images do"),
        ({"novelty": 0.49}, "usable", "copies of training images (novelty 0.49)"),
        # Real images teach nothing that is clearly above 10%: coverage decides.
        ({"accuracy_real": 0.118, "coverage": 0.68}, "good", "samples cover 85%"),
        ({"accuracy_real": 0.118, "coverage": 0.39}, "poor", "too little even from real images (11.8%)"),
        ({"accuracy_real": 0.118, "coverage_real": 0.0}, "usable", "to tell what samples are worth. Judge"),
    ],
)  # fmt: skip
def test_the_weakest_part_decides_and_is_named(changes: dict[str, float], word: str, said: str) -> None:
    found = verdict(replace(FINE, **changes))
    assert found.word == word
    assert found.line.startswith(f"{word}: ")
    assert said in found.line


def test_all_that_lacks_is_named_with_what_to_do_in_one_line() -> None:
    line = verdict(replace(FINE, accuracy=0.2, psnr_db=12.0, novelty=0.1)).line
    for said in ("samples teach 11%", "12.0 dB", ". Train the DiT longer", "; train the autoencoder longer"):
        assert said in line
    assert line.index("copies") > line.index("12.0 dB")
    assert len(verdict(replace(FINE, accuracy=0.2, psnr_db=12.0)).line) < LONGEST_LINE - 60  # name and date
