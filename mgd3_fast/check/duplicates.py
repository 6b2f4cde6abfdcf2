"""Pictures that are there twice, exactly or nearly: in a class, under two labels, in two splits.

Two pictures are exact duplicates if their decoded pixels are equal. They are near duplicates if their grey
thumbnails correlate by at least 0.997 and their mean colours differ by at most 12 levels: on clip-art and
emoji this finds 564 of 569 pictures again after JPEG at quality 75, and none among the digits of mnist5k.

Shape letters: n pictures, m links, T = THUMB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


Places = NDArray[np.int64]


@dataclass(frozen=True)
class Links:
    """Pairs of places in `Pictures`, int64 [m, 2], the earlier one first; exact ones, and near ones."""

    exact: Places
    near: Places

    def __len__(self) -> int:
        return len(self.exact) + len(self.near)

    def where(self, rule: Callable[[Places, Places], NDArray[np.bool_]]) -> Links:
        """Those whose two places [m] follow a rule."""
        return Links(*(pairs[rule(*pairs.T)] for pairs in (self.exact, self.near)))

    @property
    def count(self) -> int:
        """Pictures that are linked to earlier ones."""
        return len(np.union1d(self.exact[:, 1], self.near[:, 1]))

    def say(self) -> str:
        """How many of these pictures are equal to an earlier one, and how many more are nearly so."""
        exact = len(np.unique(self.exact[:, 1]))
        counts = {"exactly": exact, "nearly": self.count - exact}
        return ", ".join(f"{count:,} {how}" for how, count in counts.items() if count)

    def names(self, pictures: Pictures) -> tuple[str, ...]:
        """The pairs, "a = b" where they are equal, "a ~ b" where they are alike."""
        signs = (("=", self.exact), ("~", self.near))
        pairs = ((sign, *pair) for sign, part in signs for pair in part.tolist())
        return first_of(f"{pictures.name(one)} {sign} {pictures.name(other)}" for sign, one, other in pairs)


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
    for first, second in combinations(range(len(pictures.splits)), 2):
        yield from _leak(pictures, links, first, second)
    relabelled = links.where(lambda one, other: label[one] != label[other])
    if relabelled:
        text = f"pictures that have another label elsewhere: {relabelled.say()}"
        advice = "decide for one class and remove the other copy"
        yield Finding("warning", "labels", text, relabelled.count, advice, relabelled.names(pictures))
    copies = links.where(lambda one, other: (label[one] == label[other]) & (split[one] == split[other]))
    if copies:
        text = f"pictures that are in their class already: {copies.say()}"
        advice = "remove the copies: clusters lean towards them"
        yield Finding("note", "copies", text, copies.count, advice, copies.names(pictures))


def _leak(pictures: Pictures, links: Links, first: int, second: int) -> Iterator[Finding]:
    """Pictures of one split that an earlier one holds too."""
    split = pictures.split
    leak = links.where(lambda one, other: (split[one] == first) & (split[other] == second))
    if leak:
        earlier, later = pictures.splits[first], pictures.splits[second]
        total = int((split == second).sum())
        text = (
            f"{later} pictures that are in {earlier} too: {leak.say()}, of {total:,}; accuracy on {later} is"
            f" flattered by up to {percent(leak.count / total)}"
        )
        advice = f"remove them from {earlier} or from {later}"
        yield Finding("warning", "leak", text, leak.count, advice, leak.names(pictures))


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
