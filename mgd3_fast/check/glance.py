"""The short form of a check, which runs print: a few pictures, and only what spoils results."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import numpy as np

from mgd3_fast.check.finding import Finding, sorted_findings
from mgd3_fast.check.kinds import kind_findings
from mgd3_fast.check.look import Seen, pixels_of, see
from mgd3_fast.check.pictures import Pictures
from mgd3_fast.check.shapes import shape_findings
from mgd3_fast.datasets import DATASET_NAMES, BadImageError, Dataset, ImageStream, run_ahead
from mgd3_fast.datasets.spreading import some_images
from mgd3_fast.progress import Progress

_MOST_PICTURES = 200
_MOST_PIXELS = 20_000_000  # about a second of one processor
_MOST_LINES = 3
_LOOKAHEAD = 8


def glance(
    named: str,
    dataset: Dataset | ImageStream,
    size: int | None,
    progress: Progress,
    *,
    on_bad_image: str = "error",
) -> None:
    """Warn in at most four lines of what is wrong with the pictures of a run; else say nothing.

    At most 200 of them are looked at, and 20 million pixels, evenly over the classes and the same ones every
    time; none of the datasets known by name, of streams, and of what the same progress was told about before.

    Args:
        named: What the dataset was opened as.
        dataset: The opened dataset.
        size: Side in pixels that the pictures are brought to, where it is known.
        progress: Receives the lines.
        on_bad_image: With "skip", nothing is said of those that cannot be read.
    """
    if named in DATASET_NAMES or progress.quiet:
        return
    if not isinstance(dataset, Dataset) or dataset.stream is not None:
        return
    if not progress.is_first(f"pictures {dataset.fingerprint}"):
        return
    pictures = Pictures([dataset.split], dataset.class_names)
    for seen in run_ahead(_jobs(dataset), None, _LOOKAHEAD):
        pictures.add(0, *seen)
    found = sorted_findings([*kind_findings(pictures), *shape_findings(pictures, dataset.framing, size)])
    settled = {"unreadable"} if on_bad_image == "skip" else set()
    spoilers = [one for one in found if one.severity != "note" and one.about not in settled]
    if lines := [_line(finding) for finding in spoilers[:_MOST_LINES]]:
        looked_at = len(pictures) + len(pictures.bad)
        last = f"(of {looked_at:,} pictures looked at; `mgd3-fast check {shlex.quote(named)}` says more)"
        progress.note("\n".join([*lines, last]))


def _line(finding: Finding) -> str:
    advice = f" ({finding.advice})" if finding.advice else ""
    return f"{finding.severity}: {finding.text}{advice}"


def _jobs(dataset: Dataset) -> Iterator[Callable[[], Seen]]:
    """Looks at some pictures, as many as the pixels allow: their headers are read here, one after another."""
    evenly, pixels = some_images(dataset, _MOST_PICTURES), 0
    for chosen in np.random.default_rng(0).permutation(len(evenly)):
        cls, position = evenly[chosen]
        read, more = partial(cls.images.read, position), 0
        with suppress(BadImageError, OSError):
            read = partial(bytes, read())
            more = pixels_of(read())
        if pixels + more > _MOST_PIXELS:
            continue
        pixels += more
        yield partial(see, cls.name, cls.images.name(position), read, dataset.framing)
