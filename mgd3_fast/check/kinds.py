"""Kinds of pictures: those that cannot be read, transparent ones, those of one colour, odd formats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mgd3_fast.check.finding import Finding, first_of, some
from mgd3_fast.check.look import Trait
from mgd3_fast.check.pictures import Pictures

_MANY = 0.01
_FORMATS = {
    Trait.PALETTE: "of a palette",
    Trait.GREY: "grey",
    Trait.DEEP: "of 16 bits",
    Trait.CMYK: "CMYK",
}


def kind_findings(pictures: Pictures) -> Iterator[Finding]:
    """Say what the kinds of pixels mean for a run."""
    if pictures.bad:
        text = f"{some(len(pictures.bad), len(pictures) + len(pictures.bad))} cannot be read"
        names = first_of(map(pictures.bad_name, pictures.bad))
        advice = "--on-bad-image skip leaves them out"
        yield Finding("error", "unreadable", text, len(pictures.bad), advice, names)
    yield from _of_one_colour(pictures)
    yield from _with(
        pictures,
        Trait.TURNED,
        "turned",
        "say in EXIF how to turn them, which is ignored: they are seen lying",
        "turn the files themselves (ImageMagick: mogrify -auto-orient)",
    )
    yield from _with(
        pictures,
        Trait.TRANSPARENT,
        "transparent",
        "are transparent in places: the background shows through",
        "--background white|black|R,G,B",
    )
    yield from _with(pictures, Trait.SEVERAL, "several", "hold several frames: the first one is taken", "")
    formats = {words: len(pictures.having(trait)) for trait, words in _FORMATS.items()}
    if any(formats.values()):
        text = ", ".join(f"{count:,} {words}" for words, count in formats.items() if count)
        count = len(pictures.having(Trait(sum(_FORMATS))))
        yield Finding("note", "formats", f"pictures that become RGB with 8 bits: {text}", count)


def _of_one_colour(pictures: Pictures) -> Iterator[Finding]:
    one, almost = pictures.having(Trait.ONE_COLOUR), pictures.having(Trait.ALMOST_ONE_COLOUR)
    places = np.concatenate([one, almost])
    if not len(places):
        return
    text = f"{some(len(places), len(pictures))} come out of one colour or almost"
    see_through = np.isin(places, pictures.having(Trait.TRANSPARENT)).mean() >= 0.5
    advice = (
        "most are transparent: try another --background" if see_through else "remove those that are empty"
    )
    severity = "warning" if len(places) >= _MANY * len(pictures) else "note"
    yield Finding(severity, "one-colour", text, len(places), advice, first_of(map(pictures.name, places)))


def _with(pictures: Pictures, trait: Trait, about: str, what: str, advice: str) -> Iterator[Finding]:
    """A finding of the pictures that have a trait; what turns many is a warning."""
    places = pictures.having(trait)
    if not len(places):
        return
    is_much = trait == Trait.TURNED and len(places) >= _MANY * len(pictures)
    severity, text = "warning" if is_much else "note", f"{some(len(places), len(pictures))} {what}"
    yield Finding(severity, about, text, len(places), advice, first_of(map(pictures.name, places)))
