"""Pictures that are there twice, exactly or nearly: in a class, under two labels, in two splits.

Two pictures are exact duplicates if their decoded pixels are equal. They are near duplicates if their grey
thumbnails correlate by at least 0.997 and their mean colours differ by at most 12 levels: on clip-art and
emoji this finds 564 of 569 pictures again after JPEG at quality 75, and none among the digits of mnist5k.

Shape letters: n pictures, m links, T = THUMB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.check.finding import Finding, first_of, percent
from mgd3_fast.check.look import THUMB, Trait
from mgd3_fast.check.pictures import Pictures

_SMALLEST_CORRELATION = 0.997
_MOST_COLOUR_DIFFERENCE = 12
_NEIGHBOURS = 9  # looked at around each thumbnail, itself included
_COARSE = 4  # cells a side of what the neighbours are looked up by
_ROWS = 65_536


@dataclass(frozen=True)
class Links:
    """Pairs of places in `Pictures`, int64 [m, 2], the earlier one first; exact ones, and near ones."""

    exact: NDArray[np.int64]
    near: NDArray[np.int64]


def find_links(pictures: Pictures) -> Links:
    """Link every exact duplicate to the first picture like it, and near duplicates to each other.

    Pictures of one colour are left out: they are like each other and say so elsewhere.
    """
    usable = np.ones(len(pictures), dtype=bool)
    usable[pictures.having(Trait.ONE_COLOUR | Trait.ALMOST_ONE_COLOUR)] = False
    places = np.flatnonzero(usable)
    _, firsts, groups = np.unique(pictures.digests[places], return_index=True, return_inverse=True)
    first_like = places[firsts[groups]]
    later = first_like != places
    exact = np.stack([first_like[later], places[later]], axis=1)
    return Links(exact, _near(pictures, np.sort(places[firsts])))


def duplicate_findings(pictures: Pictures, links: Links) -> Iterator[Finding]:
    """Say what the links mean: flattered accuracy, contradicting labels, pictures that count twice."""
    split, label = pictures.split, pictures.label
    both = [links.exact, links.near]
    for first, second in combinations(range(len(pictures.splits)), 2):
        parts = [part[(split[part[:, 0]] == first) & (split[part[:, 1]] == second)] for part in both]
        of, other = pictures.splits[second], pictures.splits[first]
        total = int((split == second).sum())
        if found := _finding(
            pictures, parts, "warning", "leak", f"of {total:,} {of} pictures are in {other}"
        ):
            text = f"{found.text}: accuracy on {of} is flattered by up to {percent(found.count / total)}"
            yield replace(found, text=text, advice=f"remove them from {other} or from {of}")
    parts = [part[label[part[:, 0]] != label[part[:, 1]]] for part in both]
    if found := _finding(pictures, parts, "warning", "labels", "pictures have another label elsewhere"):
        yield replace(found, advice="decide for one class and remove the other copy")
    parts = [
        part[(label[part[:, 0]] == label[part[:, 1]]) & (split[part[:, 0]] == split[part[:, 1]])]
        for part in both
    ]
    if found := _finding(pictures, parts, "note", "copies", "pictures are in their class twice"):
        yield replace(found, advice="remove the copies: clusters lean towards them")


def _finding(
    pictures: Pictures, parts: list[NDArray[np.int64]], severity: str, about: str, what: str
) -> Finding | None:
    """Count the later pictures of exact and near links, and name the pairs."""
    exact, near = ({int(later) for _, later in part} for part in parts)
    near -= exact
    if not exact and not near:
        return None
    counts = [f"{len(exact):,} {what}"] * bool(exact) + [
        f"{len(near):,} {'more nearly so' if exact else f'{what}, nearly'}"
    ] * bool(near)
    names = (
        f"{pictures.name(a)} {sign} {pictures.name(b)}"
        for sign, part in zip("=~", parts, strict=True)
        for a, b in part.tolist()
    )
    return Finding(severity, about, ", ".join(counts), len(exact | near), names=first_of(names))


def _near(pictures: Pictures, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Near duplicates among pictures that are all different, by their neighbours in a coarse thumbnail.

    The means over cells are an orthonormal projection, up to a factor: what is near stays near.
    """
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    if len(places) < 2:
        return np.empty((0, 2), dtype=np.int64)
    parts = [places[start : start + _ROWS] for start in range(0, len(places), _ROWS)]
    coarse = np.concatenate([_coarse(_unit(pictures.thumbs[part])) for part in parts])
    tree, radius = cKDTree(coarse), np.sqrt(2 - 2 * _SMALLEST_CORRELATION)
    found = [np.empty((0, 2), dtype=np.int64)]
    for number, part in enumerate(parts):
        rows = np.arange(len(part)) + number * _ROWS
        count = min(_NEIGHBOURS, len(places))
        _, others = tree.query(coarse[rows], k=count, distance_upper_bound=radius)
        # Where there are fewer, the tree gives its length.
        row, column = np.nonzero((others != rows[:, None]) & (others < len(places)))
        pairs = np.sort(np.stack([part[row], places[others[row, column]]], axis=1), axis=1)
        found.append(_alike(pictures, np.unique(pairs, axis=0)))
    return np.unique(np.concatenate(found), axis=0)


def _alike(pictures: Pictures, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those pairs [m, 2] whose thumbnails and colours are alike."""
    first, second = pairs.T
    correlation = (_unit(pictures.thumbs[first]) * _unit(pictures.thumbs[second])).sum(1)
    colour = np.abs(pictures.colours[first] - pictures.colours[second]).max(1, initial=0)
    kept = (correlation >= _SMALLEST_CORRELATION) & (colour <= _MOST_COLOUR_DIFFERENCE)
    alike: NDArray[np.int64] = pairs[kept]
    return alike


def _unit(thumbs: NDArray[np.int8]) -> NDArray[np.float32]:
    """Thumbnails as vectors of length 1, [n, T^2]."""
    rows = thumbs.astype(np.float32)
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit


def _coarse(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Their means over 4 x 4 cells, times the root of a cell's pixels, [n, 16]."""
    cell = THUMB // _COARSE
    means: NDArray[np.float32] = rows.reshape(-1, _COARSE, cell, _COARSE, cell).mean((2, 4))
    return cell * means.reshape(-1, _COARSE**2)
