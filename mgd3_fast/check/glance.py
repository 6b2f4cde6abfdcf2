"""The short form of a check, which runs print: a few pictures, and only what spoils results."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from mgd3_fast.check.finding import Finding, sorted_findings
from mgd3_fast.check.kinds import kind_findings
from mgd3_fast.check.look import Look, look_at, pixels_of
from mgd3_fast.check.pictures import Pictures
from mgd3_fast.check.shapes import shape_findings
from mgd3_fast.datasets import DATASET_NAMES, BadImageError, Dataset, Framing, ImageStream, run_ahead
from mgd3_fast.progress import Progress

_MOST_PICTURES = 200
_MOST_PIXELS = 20_000_000  # about a second of one processor
_MOST_LINES = 3
_LOOKAHEAD = 8


def glance(named: str, dataset: Dataset | ImageStream, size: int | None, progress: Progress) -> None:
    """Warn in at most four lines of what is wrong with the pictures of a run; else say nothing.

    At most 200 of them are looked at, and 20 million pixels, evenly over the classes and the same ones every
    time; none of the datasets known by name, and of streams.

    Args:
        named: What the dataset was opened as.
        dataset: The opened dataset.
        size: Side in pixels that the pictures are brought to, where it is known.
        progress: Receives the lines.
    """
    if (
        named in DATASET_NAMES
        or progress.quiet
        or not isinstance(dataset, Dataset)
        or dataset.stream is not None
    ):
        return
    pictures = Pictures([dataset.split], dataset.class_names)
    for class_name, name, look in run_ahead(_jobs(dataset), None, _LOOKAHEAD):
        pictures.add(0, class_name, name, look)
    found = sorted_findings([*kind_findings(pictures), *shape_findings(pictures, size)])
    lines = [_line(finding) for finding in found if finding.severity != "note"][:_MOST_LINES]
    if lines:
        looked_at = len(pictures) + len(pictures.bad)
        last = f"(of {looked_at:,} pictures looked at; `mgd3-fast check {shlex.quote(named)}` says more)"
        progress.note("\n".join([*lines, last]))


def _line(finding: Finding) -> str:
    advice = f" ({finding.advice})" if finding.advice else ""
    return f"{finding.severity}: {finding.text}{advice}"


def _jobs(dataset: Dataset) -> Iterator[Callable[[], tuple[str, str, Look | str]]]:
    """Looks at some pictures, as many as the pixels allow: their headers are read here, one after another."""
    ends = np.cumsum([len(cls) for cls in dataset.classes])
    evenly = np.unique(np.linspace(0, ends[-1] - 1, min(_MOST_PICTURES, ends[-1])).round().astype(np.int64))
    pixels = 0
    for place in np.random.default_rng(0).permutation(evenly):
        label = int(np.searchsorted(ends, place, side="right"))
        cls = dataset.classes[label]
        position = int(place - ends[label]) + len(cls)
        try:
            content = cls.images.read(position)
        except (BadImageError, OSError) as error:
            yield partial(_named, cls.name, cls.images.name(position), f"{error}")
            continue
        more = pixels_of(content)
        if pixels + more > _MOST_PIXELS:
            continue
        pixels += more
        yield partial(_look, cls.name, cls.images.name(position), content, dataset.framing)


def _look(class_name: str, name: str, content: bytes, framing: Framing) -> tuple[str, str, Look | str]:
    try:
        return class_name, name, look_at(content, framing)
    except BadImageError as error:
        return class_name, name, str(error)


def _named(class_name: str, name: str, reason: str) -> tuple[str, str, Look | str]:
    return class_name, name, reason
