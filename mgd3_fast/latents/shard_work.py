"""What is stored of some shards, and what is left to encode of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from mgd3_fast.datasets import Shard, bad_image_error
from mgd3_fast.latents.parts import Layer, read_columns
from mgd3_fast.latents.shard_encoder import Work
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import Progress
from mgd3_fast.storage.tensor_files import DamagedFileError

_THREADS = min(8, os.cpu_count() or 1)


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
    labels: frozenset[int] | None = None
    num_classes: int = 0


@dataclass(frozen=True)
class Left:
    """What is left to do.

    Args:
        work: What is to be encoded, in the shards' order.
        stored: Rows of all shards that need not be read.
    """

    work: list[Work]
    stored: int


def work_left(
    wanted: Wanted, store: LatentStore, on_bad_image: str, progress: Progress, *, check: bool
) -> Left:
    """Find out what is not stored yet.

    Args:
        wanted: Shards and classes.
        store: Where to look.
        on_bad_image: Under "error", images that were left out of what is stored are told.
        progress: Told of damaged files, which are deleted.
        check: Compare what is stored with its checksums, which reads it.

    Raises:
        UserError: A bad image.
    """
    work, stored = [], 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check") as pool:
        looks = pool.map(lambda shard: _look(wanted, shard, store, check), wanted.shards)
        for shard, look in zip(wanted.shards, looks, strict=True):
            for note in look.notes:
                progress.note(f"warning: {note}; encoding {shard.title} again")
            if on_bad_image == "error":
                _refuse_bad(shard, look.layers, wanted.labels)
            if look.lacks:
                work.append(Work(shard, look.labels, look.layers[-1].next_row))
            stored += look.layers[-1].next_row
    return Left(work, stored)


class _Look(NamedTuple):
    """What is there of a shard: readings of it, the last of which is to be finished where it `lacks` rows."""

    layers: list[Layer]
    lacks: bool
    labels: frozenset[int] | None
    notes: list[str]


def _look(wanted: Wanted, shard: Shard, store: LatentStore, check: bool) -> _Look:
    layers, notes = [], []
    for layer in store.layers(shard, check=check):
        if _has_changed(layer, shard):
            for part in layer.parts:
                part.path.unlink(missing_ok=True)
            notes.append(f"{shard.title} has changed since it was encoded")
        else:
            layers.append(layer)
    labels = wanted.labels
    if labels is not None:
        labels = labels.difference(*(layer.labels or labels for layer in layers))
    if layers and (not labels if labels is not None else any(layer.labels is None for layer in layers)):
        return _Look(layers, False, None, notes)
    if labels is not None and len(labels) == wanted.num_classes:
        labels = None
    layer = store.layer(shard, labels, check=check)
    if layer.damage is not None:
        notes.append(str(layer.damage))
        # Gone at once: a claim is given up by whoever finds the shard stored.
        layer.next_path.unlink(missing_ok=True)
    return _Look([*layers, layer], True, labels, notes)


def _has_changed(layer: Layer, shard: Shard) -> bool:
    """Whether a stream gave other rows than it did when it was read first."""
    if shard.digest is None:
        return False
    try:
        return read_columns(layer.parts).digest() != shard.digest
    except (DamagedFileError, FileNotFoundError):
        return True


def _refuse_bad(shard: Shard, layers: Sequence[Layer], labels: frozenset[int] | None) -> None:
    """What was stored under "skip" must not hide a bad image."""
    for bad in (bad for layer in layers for part in layer.parts for bad in part.bad):
        if labels is None or bad.class_label is None or bad.class_label in labels:
            raise bad_image_error(shard.location(bad.row, bad.name), bad.reason)
