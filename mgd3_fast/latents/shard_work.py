"""What is stored of some shards, and what is left to encode of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mgd3_fast.datasets import Shard, bad_image_error
from mgd3_fast.devices import usable_processors
from mgd3_fast.latents.parts import Reading, read_columns
from mgd3_fast.latents.shard_encoder import Work
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import Progress
from mgd3_fast.storage.tensor_files import DamagedFileError

_MOST_THREADS = 8
_OPAQUE = (b".jpg", b".jpeg")


@dataclass(frozen=True)
class Wanted:
    """Which images of some shards are wanted.

    Args:
        shards: The shards.
        labels: Places of the wanted classes in the class list; None for all, where no list is known or a
            shard is a class.
        num_classes: Classes of the list.
    """

    shards: Sequence[Shard]
    labels: frozenset[int] | None
    num_classes: int


@dataclass
class _Look:
    """What is there of a shard: readings of all of it, what is left to do, and its rows that are stored."""

    readings: list[Reading] = field(default_factory=list)
    work: Work | None = None
    stored: int = 0
    notes: list[str] = field(default_factory=list)
    dropped_alpha: bool = False


def work_left(
    wanted: Wanted, store: LatentStore, on_bad_image: str, progress: Progress, *, check: bool
) -> tuple[list[Work], int]:
    """Find out what is not stored yet.

    Args:
        wanted: Shards and classes.
        store: Where to look; damaged files are deleted, and told.
        on_bad_image: Under "error", images that were left out of what is stored are told.
        progress: Receives notes.
        check: Compare what is stored with its checksums, which reads it.

    Returns:
        What is to be encoded, in the shards' order; and how many rows of all shards need not be read.

    Raises:
        UserError: A bad image.
    """
    work, stored, outdated = [], 0, 0
    with ThreadPoolExecutor(min(_MOST_THREADS, usable_processors()), thread_name_prefix="check") as pool:
        looks = pool.map(lambda shard: _look(wanted, shard, store, check), wanted.shards)
        for shard, look in zip(wanted.shards, looks, strict=True):
            for note in look.notes:
                progress.note(f"warning: {note}; encoding {shard.title} again")
            if on_bad_image == "error":
                _refuse_bad(shard, look.readings, wanted.labels)
            if look.work is not None:
                work.append(look.work)
            stored += look.stored
            outdated += look.dropped_alpha
    if store.files.fetched:
        progress.note(f"{store.files.fetched:,} files of latents were fetched from {store.files}")
    if outdated:
        progress.note(
            f"latents of {outdated:,} of {len(wanted.shards):,} folders or shards are made again: an earlier"
            " version stored them, which dropped the transparency that pictures other than JPEG may have"
        )
    return work, stored


def _look(wanted: Wanted, shard: Shard, store: LatentStore, check: bool) -> _Look:
    look, labels = _Look(), wanted.labels
    for reading in store.readings(shard, check=check):
        if _has_changed(reading, shard):
            look.notes.append(f"{shard.title} has changed since it was encoded")
            _each_part(reading, store.files.remove)
            continue
        if _dropped_alpha(reading, shard):
            look.dropped_alpha = True
            _each_part(reading, store.files.remove)
            continue
        _each_part(reading, store.files.publish)
        look.readings.append(reading)
        look.stored = reading.next_row
        if reading.labels is None:
            return look
        if labels is not None:
            labels -= reading.labels
            if not labels:
                return look
    if labels is not None and len(labels) == wanted.num_classes:
        labels = None
    begun = store.reading(shard, labels, check=check)
    if _dropped_alpha(begun, shard):
        look.dropped_alpha = True
        _each_part(begun, store.files.remove)
        begun = store.reading(shard, labels, check=check)
    if begun.damage is not None:
        look.notes.append(begun.damage)
        # Gone at once: a claim is given up by whoever finds the shard stored.
        begun.next_path.unlink(missing_ok=True)
    _each_part(begun, store.files.publish)
    look.readings.append(begun)
    look.work, look.stored = Work(shard, labels, begun.next_row), begun.next_row
    return look


def _has_changed(reading: Reading, shard: Shard) -> bool:
    """Whether a stream gave other rows than it did when it was read first."""
    if shard.digest is None:
        return False
    try:
        return read_columns(reading.parts).digest() != shard.digest
    except (DamagedFileError, FileNotFoundError):
        return True


def _dropped_alpha(reading: Reading, shard: Shard) -> bool:
    """Whether a version that knew no background made latents of images of which some may be transparent."""
    old = [part for part in reading.parts if part.dropped_alpha]
    if not old or shard.in_memory:
        return False
    try:
        return not all(name.lower().endswith(_OPAQUE) for name in read_columns(old).unpacked())
    except (DamagedFileError, FileNotFoundError):
        return True


def _each_part(reading: Reading, do: Callable[[Path], None]) -> None:
    for part in reading.parts:
        do(part.path)


def _refuse_bad(shard: Shard, readings: Sequence[Reading], labels: frozenset[int] | None) -> None:
    """What was stored under "skip" must not hide a bad image."""
    for bad in (bad for reading in readings for part in reading.parts for bad in part.bad):
        if labels is None or bad.class_label is None or bad.class_label in labels:
            raise bad_image_error(shard.location(bad.row, bad.name), bad.reason)
