"""Shards to parts: read, decoded, mirrored, encoded, stored; all of it side by side.

Shape letters: B images of a batch, R pixels a side.
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
from PIL import Image
from torch import Tensor

from mgd3_fast.datasets import BadImage, Row, Shard, bad_image_error, load_image, run_ahead
from mgd3_fast.datasets.batches import check_rule, threads_for
from mgd3_fast.errors import listed
from mgd3_fast.latents.encoder import BatchEncoder, Encoder, batch_rows, latent_shape, whole_eights
from mgd3_fast.latents.flipping import flipped, rows_per_image
from mgd3_fast.latents.parts import BadRow, NewPart
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import SILENT, Bar, Progress
from mgd3_fast.storage.claims import Claim

# A part ends with this many latents (32 MiB of float32 for 4x32x32; a class of ImageNet is one part), or rows
# where few of them are chosen.
_PART_LATENTS = 2048
_PART_ROWS = 65536
# How often to look whether another process has finished what it claimed.
_WAIT_S = 0.5


@dataclass(frozen=True)
class EncodeJob:
    """An encoder on its device, the store it fills, and the rules; see `make_job`.

    `rows` is the most rows of a batch, a multiple of 8.
    """

    encoder: BatchEncoder
    store: LatentStore
    rows: int
    on_bad_image: str
    num_workers: int | None
    progress: Progress


def make_job(
    autoencoder: Encoder,
    store: LatentStore,
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    on_bad_image: str = "error",
    num_workers: int | None = None,
    progress: Progress = SILENT,
) -> EncodeJob:
    """Move an autoencoder to its device and decide the batches.

    Args:
        autoencoder: Encodes.
        store: Receives latents; sets resolution and number format.
        batch_size: Images per batch, rounded up to a multiple of 8; None for what the device takes well.
        device: Where to encode.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads, None for one per processor.
        progress: Where bars and notes go.

    Raises:
        UserError: A resolution that the autoencoder cannot take, a batch size below 1, or no such rule for
            bad images.
    """
    check_rule(on_bad_image)
    device = torch.device(device)
    shape = latent_shape(autoencoder, store.resolution)
    rows = batch_rows(batch_size, store.resolution, device)
    autoencoder.to(device, store.dtype)
    encoder = BatchEncoder(autoencoder, shape, device)
    return EncodeJob(encoder, store, rows, on_bad_image, num_workers, progress)


@dataclass
class Encoded:
    """What one process has encoded."""

    images: int = 0
    bytes_written: int = 0
    seconds: float = 0.0


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
    image: NDArray[np.uint8] | BadImage | None


class ShardEncoder:
    """Encodes shards one after another, those that no other process has taken; the bar counts rows."""

    def __init__(self, job: EncodeJob, bar: Bar) -> None:
        self.encoded = Encoded()
        self._job, self._store, self._bar = job, job.store, bar
        self._claims: dict[Work, Claim] = {}

    def run(self, work: Sequence[Work]) -> None:
        """Encode, then wait for the shards of others, taking those up that they leave.

        Raises:
            UserError: A bad image under "error", a label out of range, or a stream broke off; what was
                encoded is kept.
        """
        taken = self._sweep(work)
        if taken:
            names = listed(one.shard.name for one in taken)
            self._job.progress.note(f"waiting for shards that other processes are encoding: {names}")
        while taken:
            time.sleep(_WAIT_S)
            # One at a time: nobody waits while they hold a claim.
            taken = [one for one in taken if self._sweep([one])]

    def _sweep(self, work: Sequence[Work]) -> list[Work]:
        """Encode what can be claimed; returns what others hold."""
        held_by_others: list[Work] = []
        workers = self._job.num_workers
        if workers is None:
            workers = threads_for([one.shard for one in work])
        try:
            with closing(run_ahead(self._loads(work, held_by_others), workers, 2 * self._job.rows)) as items:
                for of_one, of_shard in groupby(items, key=lambda item: item.work):
                    self._encode_shard(of_one, of_shard)
        finally:
            for claim in self._claims.values():
                claim.release()
            self._claims.clear()
        return held_by_others

    def _loads(self, work: Sequence[Work], held_by_others: list[Work]) -> Iterator[Callable[[], _Item]]:
        """Claim shards as they are reached, and read their rows; decoding is left to whoever calls."""
        for one in work:
            claim = self._store.claim(one.shard)
            if claim is None:
                held_by_others.append(one)
                continue
            reading = self._store.reading(one.shard, one.labels)
            number = reading.next_row
            if reading.is_complete:
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
            image = load_image(row.class_name, row.number, row.name, lambda: self._square(row))
        return _Item(work, row.number, row, image)

    def _square(self, row: Row) -> Image.Image:
        return self._store.framing.square(row.load(), self._store.resolution)

    def _encode_shard(self, work: Work, items: Iterator[_Item]) -> None:
        """Store a shard from its first missing row on, part after part."""
        rows, shard = self._job.rows, work.shard
        if shard.is_listed and shard.count is not None:
            rows = min(rows, whole_eights(shard.count * rows_per_image(self._store.flip)))
        claim, seen, is_last = self._claims.get(work), work.stored, False
        if claim is None:
            # Another process has stored it meanwhile.
            self._bar.advance(next(items).number - seen)
            return
        empty = torch.empty(0, *self._job.encoder.shape, dtype=self._store.storage_dtype)
        while not is_last:
            part = NewPart(latents=[empty])
            for encoded in self._job.encoder.run(self._batches(part, work, items, rows), rows, shard.title):
                part.latents.append(encoded.to(self._store.storage_dtype))
                self._bar.advance(part.next_row - seen)
                seen = part.next_row
            self._bar.advance(part.next_row - seen)
            seen = part.next_row
            self.encoded.bytes_written += self._store.put(shard, work.labels, part)
            is_last = part.is_last
        self._claims.pop(work).release()

    def _batches(self, part: NewPart, work: Work, items: Iterator[_Item], most: int) -> Iterator[Tensor]:
        """The images to encode, uint8 [B, 3, R, R], until the part is full or the shard ends."""
        pixels: list[NDArray[np.uint8]] = []
        for item in items:
            if not part.labels:
                part.first_row = item.number
            if item.row is None:
                part.is_last = True
                break
            part.add(item.row)
            if item.image is not None:
                self.encoded.images += 1
                pixels += self._usable(part, work.shard, item.row, item.image)
            if len(pixels) == most:
                yield torch.from_numpy(np.stack(pixels))
                pixels = []
            if not pixels and (len(part.latent_rows) >= _PART_LATENTS or len(part.labels) >= _PART_ROWS):
                part.is_last = work.shard.is_listed and part.next_row == work.shard.count
                break
        if pixels:
            yield torch.from_numpy(np.stack(pixels))

    def _usable(
        self, part: NewPart, shard: Shard, row: Row, image: NDArray[np.uint8] | BadImage
    ) -> list[NDArray[np.uint8]]:
        """What is to be encoded of a row: nothing, its image, or that and its mirror image."""
        if isinstance(image, BadImage):
            if self._job.on_bad_image == "error":
                raise bad_image_error(shard.location(row.number, row.name), image.reason)
            part.bad.append(BadRow(row.number, row.class_label, row.name, image.reason))
            return []
        usable = flipped(image, self._store.flip, row.class_name, row.name)
        part.latent_rows += [row.number] * len(usable)
        return usable
