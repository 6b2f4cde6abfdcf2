"""Shards to parts: read, decoded, mirrored, encoded, stored; all of it side by side.

Shape letters: B images of a batch, m latents of a part, C channels, h w latent size, R pixels a side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets import BadImage, LoadedImage, Row, Shard, bad_image_error, load_image, run_ahead
from mgd3_fast.datasets.scanning import listed
from mgd3_fast.latents.batch_encoder import whole_eights
from mgd3_fast.latents.flipping import flipped, rows_per_image
from mgd3_fast.latents.job import WAIT_S, Encoded, EncodeJob
from mgd3_fast.latents.parts import BadRow, PartRows
from mgd3_fast.progress import Bar
from mgd3_fast.storage.claims import Claim

# A part ends with this many latents (32 MiB of float32 for 4x32x32; a class of ImageNet is one part), or rows
# where few of them are chosen.
_PART_LATENTS = 2048
_PART_ROWS = 65536


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be encoded of a shard.

    Args:
        shard: The shard.
        labels: Places of the classes to encode, None for all; other rows are noted alone.
        stored: Its rows that are stored already.
    """

    shard: Shard
    labels: frozenset[int] | None
    stored: int


class _Item(NamedTuple):
    """A row of a shard, its image decoded where its class is chosen; or the shard's end, without a row."""

    work: Work
    number: int
    row: Row | None
    image: LoadedImage | None


class ShardEncoder:
    """Encodes shards one after another, those that no other process has taken.

    Args:
        job: How to encode.
        bar: Counts rows.
    """

    def __init__(self, job: EncodeJob, bar: Bar) -> None:
        self.encoded = Encoded()
        self._job, self._bar = job, bar
        self._claims: dict[Work, Claim] = {}

    def run(self, work: Sequence[Work]) -> None:
        """Encode, then wait for the shards of others, taking those up that they leave.

        Raises:
            UserError: A bad image under "error", a label out of range, or a stream broke off; what was
                encoded is kept.
        """
        taken = self._sweep(work)
        if taken:
            names = listed([one.shard.name for one in taken])
            self._job.progress.note(f"waiting for shards that other processes are encoding: {names}")
        while taken:
            time.sleep(WAIT_S)
            # One at a time: nobody waits while they hold a claim.
            taken = [one for one in taken if self._sweep([one])]

    def _sweep(self, work: Sequence[Work]) -> list[Work]:
        """Encode what can be claimed; returns what others hold."""
        held_by_others: list[Work] = []
        workers = self._job.num_workers
        if workers is None and all(one.shard.in_memory for one in work):
            workers = 0
        try:
            with closing(run_ahead(self._loads(work, held_by_others), workers, 2 * self._job.rows)) as items:
                for work_of_one, of_shard in groupby(items, key=lambda item: item.work):
                    self._encode_shard(work_of_one, of_shard)
        finally:
            for claim in self._claims.values():
                claim.release()
            self._claims.clear()
        return held_by_others

    def _loads(self, work: Sequence[Work], held_by_others: list[Work]) -> Iterator[Callable[[], _Item]]:
        """Claim shards as they are reached, and read their rows; decoding is left to whoever calls."""
        for one in work:
            claim = self._job.store.claim(one.shard)
            if claim is None:
                held_by_others.append(one)
                continue
            layer = self._job.store.layer(one.shard, one.labels)
            number = layer.next_row
            if layer.is_complete:
                claim.release()
            else:
                self._claims[one] = claim
                for row in one.shard.rows(number):
                    yield partial(self._load, one, row)
                    number = row.number + 1
            yield partial(_Item, one, number, None, None)

    def _load(self, work: Work, row: Row) -> _Item:
        """Decode one image; runs on a worker thread."""
        image = None
        if work.labels is None or row.class_label in work.labels:
            image = load_image(row.class_name, 0, row.number, row.name, self._job.store.resolution, row.load)
        return _Item(work, row.number, row, image)

    def _encode_shard(self, work: Work, items: Iterator[_Item]) -> None:
        """Store a shard from its first missing row on, part after part."""
        rows = self._job.rows
        if work.shard.is_listed and work.shard.count is not None:
            rows = min(rows, whole_eights(work.shard.count * rows_per_image(self._job.store.flip)))
        claim, seen, is_last = self._claims.get(work), work.stored, False
        if claim is None:
            # Another process has stored it meanwhile.
            self._bar.advance(next(items).number - seen)
            return
        while not is_last:
            part = _UnfinishedPart(work, self._job)
            for encoded in self._job.encoder.run(part.batches(items, rows), rows, work.shard.title):
                part.latents.append(encoded.to(self._job.store.storage_dtype))
                self._bar.advance(part.rows.next_row - seen)
                seen = part.rows.next_row
            self._bar.advance(part.rows.next_row - seen)
            seen = part.rows.next_row
            latents = torch.cat(part.latents)  # [m, C, h, w]
            self._job.store.put_part(work.shard, work.labels, part.rows, latents)
            self.encoded.images += part.images
            self.encoded.bytes_written += latents.nbytes
            is_last = part.rows.is_last
        self._claims.pop(work).release()


class _UnfinishedPart:
    """Gathers the rows and latents of a part."""

    def __init__(self, work: Work, job: EncodeJob) -> None:
        self.rows = PartRows()
        self.latents = [torch.empty(0, *job.encoder.shape, dtype=job.store.storage_dtype)]
        self.images = 0
        self._work, self._job = work, job

    def batches(self, items: Iterator[_Item], most: int) -> Iterator[Tensor]:
        """The images to encode, uint8 [B, 3, R, R], until the part is full or the shard ends."""
        rows, shard = self.rows, self._work.shard
        pixels: list[NDArray[np.uint8]] = []
        for item in items:
            if not rows.labels:
                rows.first_row = item.number
            if item.row is None:
                rows.is_last = True
                break
            rows.add(item.row)
            pixels += self._usable(item.row, item.image)
            if len(pixels) == most:
                yield torch.from_numpy(np.stack(pixels))  # [B, 3, R, R]
                pixels = []
            if not pixels and (len(rows.latent_rows) >= _PART_LATENTS or len(rows.labels) >= _PART_ROWS):
                rows.is_last = shard.is_listed and rows.next_row == shard.count
                break
        if pixels:
            yield torch.from_numpy(np.stack(pixels))

    def _usable(self, row: Row, image: LoadedImage | None) -> list[NDArray[np.uint8]]:
        """What is to be encoded of a row: nothing, its image, or that and its mirror image."""
        if image is None:
            return []
        self.images += 1
        if isinstance(image.pixels, BadImage):
            reason = image.pixels.reason
            if self._job.on_bad_image == "error":
                raise bad_image_error(self._work.shard.location(row.number, row.name), reason)
            self.rows.bad.append(BadRow(row.number, row.class_label, row.name, reason))
            return []
        usable = flipped(image.pixels, self._job.store.flip, row.class_name, row.name)
        self.rows.latent_rows += [row.number] * len(usable)
        return usable
