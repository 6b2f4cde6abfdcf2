"""Pictures per class and split: which classes are short, missing or too frequent.

Shape letters: S splits, N classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.check.finding import Finding, first_of, percent, some
from mgd3_fast.check.pictures import Pictures

_FEW_PER_CLASS = 100
_MUCH_ABOVE_CHANCE = 2


def counts_of(pictures: Pictures) -> NDArray[np.int64]:
    """Pictures that can be read, [S, N]."""
    counts = np.zeros((len(pictures.splits), len(pictures.class_names)), dtype=np.int64)
    np.add.at(counts, (pictures.split, pictures.label), 1)
    return counts


def majority_share(counts: NDArray[np.int64]) -> float:
    """What always answering the most frequent class scores, of counts [N]."""
    return float(counts.max(initial=0) / max(1, counts.sum()))


def count_findings(pictures: Pictures, ipc: int | None) -> Iterator[Finding]:
    """Say which classes are too small, missing from a split or too large."""
    counts, names = counts_of(pictures), np.array(pictures.class_names, dtype=object)
    train, total = counts[0], counts.shape[1]
    if total == 1:
        yield Finding("warning", "one-class", "1 class: a classifier has nothing to tell apart", 1)
    yield from _short_classes(train, names, ipc)
    if 0 < train.mean() < _FEW_PER_CLASS:
        text = f"{train.mean():.0f} training pictures a class: real images are hard to beat with so few"
        advice = "mgd3-fast compare, before you use a distilled set"
        yield Finding("warning", "few", text, int(train.sum()), advice)
    for split, of_split in zip(pictures.splits[1:], counts[1:], strict=True):
        if (missing := of_split == 0).any():
            text = f"{some(missing.sum(), total, 'classes')} have no {split} pictures"
            advice = f"fill {split}/, or --classes without them"
            yield Finding("warning", "missing", text, int(missing.sum()), advice, first_of(names[missing]))
    yield from _balance(pictures, counts)


def _short_classes(
    train: NDArray[np.int64], names: NDArray[np.object_], ipc: int | None
) -> Iterator[Finding]:
    """Classes without training pictures, with fewer than are to be distilled, or with a single one."""
    empty, single = train == 0, train == 1
    if empty.any():
        text = f"{some(empty.sum(), len(train), 'classes')} have no training picture that can be read"
        advice = "fill them, or --classes without them"
        yield Finding("error", "empty", text, int(empty.sum()), advice, first_of(names[empty]))
    if ipc is not None and (short := (train < ipc) & ~empty).any():
        text = f"{some(short.sum(), len(train), 'classes')} have fewer than {ipc} pictures that can be read"
        advice = f"--ipc {train[~empty].min()} at most, or --classes without them"
        counted = (f"{name} ({count})" for name, count in zip(names[short], train[short], strict=True))
        yield Finding("error", "ipc", text, int(short.sum()), advice, first_of(counted))
    if single.any():
        text = f"{some(single.sum(), len(train), 'classes')} have 1 training picture: none can be held out"
        yield Finding("warning", "single", text, int(single.sum()), "fill them", first_of(names[single]))


def _balance(pictures: Pictures, counts: NDArray[np.int64]) -> Iterator[Finding]:
    """Of the split that classifiers are tested on: the first beside train, where there is one."""
    tested = 1 if len(counts) > 1 else 0
    of_split, share = counts[tested], majority_share(counts[tested])
    if counts.shape[1] > 1 and share * counts.shape[1] >= _MUCH_ABOVE_CHANCE:
        most = pictures.class_names[int(of_split.argmax())]
        text = (
            f"{most} is {percent(share)} of {pictures.splits[tested]}: always answering it scores that, where"
            f" chance is {percent(1 / counts.shape[1])}"
        )
        advice = "read the balanced accuracy of evaluate and compare beside the plain one"
        yield Finding("warning", "majority", text, 1, advice)
