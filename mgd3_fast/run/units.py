"""The units of work that a run consists of: small values, which any worker can do, once or again.

A worker gives back small values as well. What it makes lies in the cache and in the output folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mgd3_fast.errors import listed
from mgd3_fast.modes.recovery import RecoveryCount

if TYPE_CHECKING:
    from mgd3_fast.writers import Layout

T = TypeVar("T")

UNITS_PER_WORKER = 8
"""Units of a stage for each of several workers: the least bad on 8 to 512 of them (`docs/cluster.md`)."""


@dataclass(frozen=True)
class Survey:
    """Find out what is left to do; gives a `Left`."""

    def __str__(self) -> str:
        return "the look at what is left"


@dataclass(frozen=True)
class Encode:
    """Encode every `parts`-th source shard, from `part` on, of some classes; gives the images left out."""

    classes: tuple[int, ...]
    part: int = 1
    parts: int = 1

    def __str__(self) -> str:
        return f"part {self.part} of {self.parts} of the latents"


@dataclass(frozen=True)
class OpenFolder:
    """Make the output folder this run's, before anything is written to it.

    Args:
        skipped: Images that were left out of the latents, for the manifest.
        damaged: Of a finished run that lost files, its sessions and the sha256 of what is whole.
        idle: Whether all images of this shard are there.
    """

    skipped: tuple[dict[str, str], ...]
    damaged: Damaged | None
    idle: bool

    def __str__(self) -> str:
        return "the opening of the output folder"


@dataclass(frozen=True)
class FindModes:
    """Find the modes of some classes, given by their places in the run."""

    classes: tuple[int, ...]

    def __str__(self) -> str:
        return f"the modes of {_span(self.classes, 'class', 'classes')}"


@dataclass(frozen=True)
class MakeImages:
    """Make some images, given by their numbers, and write them; gives a `Made`."""

    images: tuple[int, ...]

    def __str__(self) -> str:
        return _span(self.images, "image", "images")


@dataclass(frozen=True)
class Finish:
    """Complete the run if all images of all shards are there; gives how many are missing."""

    def __str__(self) -> str:
        return "the end of the run"


@dataclass(frozen=True)
class Trace:
    """Draw the trace of a complete run."""

    def __str__(self) -> str:
        return "the trace"


@dataclass(frozen=True)
class Damaged:
    """What is whole of a finished run: its sessions, and sha256 by image number."""

    sessions: list[dict[str, Any]]
    digests: dict[int, str]


@dataclass(frozen=True)
class Left:
    """What a shard of a run has still to do, and what the story of a run has to know of it.

    Args:
        layout: The image list.
        kept: What an interrupted run keeps besides images.
        guided: Whether modes pull.
        is_finished: Whether the run is whole already.
        blocks: Numbers of the images to make, those of a unit together.
        bar: Arguments of the bar of these images.
        lacking: Places of the classes that are to be encoded.
        shards: Source shards that hold them.
        rows: Images in these.
        damaged: What is whole of a finished run that lost files.
    """

    layout: Layout
    kept: str
    guided: bool
    is_finished: bool = False
    blocks: tuple[tuple[int, ...], ...] = ()
    bar: dict[str, Any] = field(default_factory=dict)
    lacking: tuple[int, ...] = ()
    shards: int = 0
    rows: int = 0
    damaged: Damaged | None = None

    @property
    def images(self) -> int:
        """Images to make."""
        return sum(map(len, self.blocks))

    @property
    def classes(self) -> tuple[int, ...]:
        """Places of their classes."""
        return tuple(self.layout.classes_of(image for block in self.blocks for image in block))


@dataclass(frozen=True)
class Made:
    """What came of some images: source images that were left out, and how many ended at their modes."""

    skipped: list[dict[str, str]] = field(default_factory=list)
    recovery: RecoveryCount = field(default_factory=RecoveryCount)


@dataclass(frozen=True)
class Done:
    """What came of a unit: the value that it gives, and seconds of its worker by stage since the last one."""

    value: Any
    seconds: dict[str, float]


def parts_for(things: int, workers: int) -> int:
    """Units to divide some things into: one for one worker, which divides them by itself as it needs."""
    return 1 if workers == 1 else max(1, min(things, workers * UNITS_PER_WORKER))


def divided(things: Sequence[T], parts: int) -> Iterator[tuple[T, ...]]:
    """Neighbouring things in parts of equal size, up to one."""
    for part in range(parts):
        yield tuple(things[len(things) * part // parts : len(things) * (part + 1) // parts])


def _span(numbers: Sequence[int], one: str, many: str) -> str:
    if len(numbers) == 1 or numbers[-1] - numbers[0] >= len(numbers):
        return f"{one if len(numbers) == 1 else many} {listed(numbers)}"
    return f"{many} {numbers[0]} to {numbers[-1]}"
