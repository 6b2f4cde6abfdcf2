"""Sides of pictures: what bringing them to a square of one size does to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.check.finding import Finding, first_of, percent, some
from mgd3_fast.check.pictures import Pictures
from mgd3_fast.datasets import Framing

PUBLISHED = 256
"""Smallest side in pixels that published generators draw."""

_MUCH_LOST, _WORTH_SAYING, _MANY_LONG = 0.3, 0.1, 0.1
_SMALLEST_TRAINED, _LARGEST_TRAINED = 32, 256
_HUGE = 50_000_000  # pixels; decoded, 150 MB


def shape_findings(
    pictures: Pictures, framing: Framing, size: int | None, usual: int | None = None
) -> Iterator[Finding]:
    """Say what the crop cuts off, and which pictures are too small, or so large that they are slow to read.

    Args:
        pictures: What was seen.
        framing: Whether it is the shorter side that becomes `size`, and what is beyond is cut off.
        size: Side in pixels that they are to be brought to.
        usual: Side that they may be brought to where nothing is known; most smaller ones are worth a note.
    """
    sides = pictures.sides
    if not len(sides):
        return
    crops = framing.fit == "crop"
    if crops:
        yield from _cut(pictures, sides)
    if size or usual:
        scaled = sides.min(1) if crops else sides.max(1)
        yield from _enlarged(pictures, scaled, size or usual or 0, is_known=size is not None)
    huge = np.flatnonzero(sides.astype(np.int64).prod(1) > _HUGE)
    if len(huge):
        text = f"{some(len(huge), len(sides))} have more than {_HUGE // 10**6} million pixels: slow to read"
        names = _with_sides(pictures, huge)
        yield Finding("note", "huge", text, len(huge), "store them smaller", names)


def fitting_resolution(pictures: Pictures) -> int:
    """The power of two from 32 to 256 at or below the median shorter side."""
    median = float(np.median(pictures.sides.min(1)))
    power = 1 << max(0, int(median).bit_length() - 1)
    return int(np.clip(power, _SMALLEST_TRAINED, _LARGEST_TRAINED))


def _cut(pictures: Pictures, sides: NDArray[np.int32]) -> Iterator[Finding]:
    lost = 1 - sides.min(1) / sides.max(1)
    long = np.flatnonzero(lost > 0.5)
    if lost.mean() < _WORTH_SAYING and not len(long):
        return
    is_much = lost.mean() >= _MUCH_LOST or len(long) >= _MANY_LONG * len(lost)
    text = f"the centre crop cuts off {percent(lost.mean())} of the pixels on average"
    if len(long):
        text += f", over half of {some(len(long), len(lost))}"
    worst = long[np.argsort(-lost[long], kind="stable")]
    names = _with_sides(pictures, worst)
    severity = "warning" if is_much else "note"
    yield Finding(severity, "crop", text, len(long), "--fit pad keeps whole pictures", names)


def _enlarged(
    pictures: Pictures, scaled: NDArray[np.int32], size: int, *, is_known: bool
) -> Iterator[Finding]:
    small = np.flatnonzero(scaled < size)
    is_much = bool(np.median(scaled) <= size / 2)
    if not len(small) or not (is_known or is_much):
        return
    fits = fitting_resolution(pictures)
    why = "" if is_known else ", the least that published generators draw,"
    text = f"{some(len(small), len(scaled))} are smaller than {size} px{why} and get enlarged"
    advice = f"train a generator of your own: train --resolution {fits}" if fits < size else ""
    yield Finding("warning" if is_known and is_much else "note", "small", text, len(small), advice)


def _with_sides(pictures: Pictures, places: NDArray[np.int64]) -> tuple[str, ...]:
    sides = pictures.sides
    return first_of(f"{pictures.name(place)} ({sides[place][0]}x{sides[place][1]})" for place in places)
