"""From what was measured to one word, why, and what to do next. `docs/judging.md` states the rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

GOOD, USABLE = 0.8, 0.5
"""Least share of what real images give, for either word."""

CLEAR_DB, BLURRED_DB = 20.0, 15.0
"""Least PSNR of a good and of a usable autoencoder."""

LEAST_NOVELTY = 0.5

_WORDS = ("poor", "usable", "good")
_UNKNOWN, _GOOD = 1, 2


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a verdict is made of; "real" stands for as many training images as there are samples.

    Args:
        psnr_db: Of reconstructed held-out images.
        l1_levels: Mean absolute error of their pixels, in levels of 255.
        accuracy: Share of the held-out images that a classifier labels right that learned from samples.
        accuracy_real: That one which learned from real images does.
        majority: Share of the most frequent class among them.
        held_out: How many they are.
        coverage: See `Likeness`, as for the rest.
        coverage_real: Of real images.
        density: Of samples.
        density_real: Of real images.
        novelty: Of samples.
    """

    psnr_db: float
    l1_levels: float
    accuracy: float
    accuracy_real: float
    majority: float
    held_out: int
    coverage: float
    coverage_real: float
    density: float
    density_real: float
    novelty: float

    @property
    def taught(self) -> float | None:
        """What samples teach above the majority share, over what real images teach above it.

        None where real images teach nothing that is clearly above it: two standard errors of a share.
        """
        room = self.accuracy_real - self.majority
        error = math.sqrt(self.majority * (1 - self.majority) / self.held_out)
        return (self.accuracy - self.majority) / room if room > 2 * error else None

    @property
    def covered(self) -> float | None:
        """Coverage of samples over that of real images; None where these cover nothing."""
        return self.coverage / self.coverage_real if self.coverage_real > 0 else None


class Verdict(NamedTuple):
    """One of "good", "usable" and "poor", and a line that begins with it and says why and what next."""

    word: str
    line: str


def verdict(measures: Measures) -> Verdict:
    """Judge by the weakest of what samples teach, the autoencoder, and how new the samples are.

    All of them that are not good are named, the weakest first.
    """
    grades = [_of_samples(measures), _of_autoencoder(measures), _of_novelty(measures)]
    lacking = sorted((one for one in grades if one[0] < _GOOD), key=lambda one: one[0])
    if not lacking:
        return Verdict(_WORDS[_GOOD], f"{_WORDS[_GOOD]}: {grades[0][1]}")
    word = _WORDS[lacking[0][0]]
    reasons, advice = ("; ".join(parts) for parts in list(zip(*lacking, strict=True))[1:])
    return Verdict(word, f"{word}: {reasons}. {advice[0].upper()}{advice[1:]}")


def _of_samples(measures: Measures) -> tuple[int, str, str]:
    advice = "train the DiT longer or larger, or prefer real images"
    advice += " (distill --method kmeans-closest)"
    if measures.taught is not None:
        why = (
            f"samples teach {max(0.0, measures.taught):.0%} of what as many real images do"
            f" ({measures.accuracy:.1%} against {measures.accuracy_real:.1%}; largest class"
            f" {measures.majority:.1%})"
        )
        return _grade(measures.taught), why, advice
    why = f"the quick classifier learns too little even from real images ({measures.accuracy_real:.1%})"
    if measures.covered is None:
        return _UNKNOWN, f"{why} to tell what samples are worth", "judge by more images"
    return _grade(measures.covered), f"{why}; samples cover {measures.covered:.0%} of what these do", advice


def _of_autoencoder(measures: Measures) -> tuple[int, str, str]:
    grade = _grade(measures.psnr_db, CLEAR_DB, BLURRED_DB)
    why = f"the autoencoder keeps {measures.psnr_db:.1f} dB of held-out images ({CLEAR_DB:g} is clear)"
    return grade, why, "train the autoencoder longer or larger, or take a published one (--vae)"


def _of_novelty(measures: Measures) -> tuple[int, str, str]:
    why = f"samples are close to copies of training images (novelty {measures.novelty:.2f})"
    advice = "stop the training earlier, or take more images or --augment"
    return _grade(measures.novelty, LEAST_NOVELTY, 0.0), why, advice


def _grade(value: float, good: float = GOOD, usable: float = USABLE) -> int:
    return (value >= good) + (value >= usable)
