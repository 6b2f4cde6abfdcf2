"""Images to stored latents: one class at a time, finished classes skipped.

Shape letters: B images of a batch, n images of a class, C channels, h w latent size, R pixels a side.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from mgd3_fast.datasets import (
    BadImage,
    Dataset,
    ImageClass,
    LoadedImage,
    bad_image_error,
    batch_images,
    by_class,
    stream_images,
)
from mgd3_fast.datasets.scanning import listed
from mgd3_fast.errors import UserError
from mgd3_fast.latents.batch_encoder import whole_eights
from mgd3_fast.latents.claims import Claim
from mgd3_fast.latents.disk_room import check_room
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.flipping import flipped, rows_per_image
from mgd3_fast.latents.job import WAIT_S, Encoded, EncodeJob, make_job
from mgd3_fast.latents.store import ClassLatents, LatentStore
from mgd3_fast.latents.stream_encoding import StreamShare, encode_stream_again
from mgd3_fast.progress import SILENT, Bar, Progress
from mgd3_fast.tensor_files import DamagedFileError

_CHECK_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class EncodeReport:
    """What an encode stage did.

    Args:
        images: Images encoded now, by this process.
        reused: Images whose latents were already stored, or were encoded by others meanwhile.
        seconds: Wall time.
        counts: Latents per class, without bad images.
        bad_images: Skipped images of all classes, also those skipped when they were stored.
        bytes_written: Size of the new latents.
    """

    images: int
    reused: int
    seconds: float
    counts: dict[str, int]
    bad_images: tuple[BadImage, ...]
    bytes_written: int


def encode_dataset(
    dataset: Dataset,
    autoencoder: Encoder,
    store: LatentStore,
    *,
    resolution: int | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    on_bad_image: str = "error",
    num_workers: int | None = None,
    progress: Progress = SILENT,
    check: bool = False,
    share: StreamShare | None = None,
) -> EncodeReport:
    """Encode the classes whose latents are not stored yet.

    Other processes may do the same at the same time: each class is encoded by one of them, and this
    function waits for what others have taken.

    Args:
        dataset: The classes.
        autoencoder: Encodes; moved to `device` when there is work.
        store: Receives latents; sets resolution, number format and flip.
        resolution: The store's, if given.
        batch_size: Images per batch, rounded up to a multiple of 8; by default what the device takes well.
        device: Where to encode.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; see `stream_images`.
        progress: Where the bar and notes go.
        check: Compare stored latents with their checksums, which reads them; damaged ones are made anew.
        share: Of a stream, the shards that this process reads; see `encode_stream`.

    Returns:
        What was done.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, no room on the disk, a resolution that the
            autoencoder cannot take, or latents that are not finite.
    """
    started = time.monotonic()
    if resolution not in (None, store.resolution):
        raise UserError(f"resolution must be the latent store's {store.resolution}, got {resolution}")
    latent_shape(autoencoder, store.resolution)
    store.prepare()
    missing = _missing_classes(dataset, store, on_bad_image, progress, check)
    encoded = Encoded()
    if missing:
        job = make_job(
            autoencoder,
            store,
            batch_size=batch_size,
            device=device,
            on_bad_image=on_bad_image,
            num_workers=num_workers,
            progress=progress,
        )
        if dataset.stream is not None:
            encoded = encode_stream_again(dataset, missing, job, share)
        else:
            encoded = _encode_classes(dataset, missing, job)
    return _report(dataset, store, encoded, time.monotonic() - started, share)


def _encode_classes(dataset: Dataset, missing: Sequence[int], job: EncodeJob) -> Encoded:
    images = sum(len(dataset.classes[index]) for index in missing)
    check_room(job.store, images, job.encoder.shape, job.progress)
    with job.bar(total=len(dataset), initial=len(dataset) - images) as bar:
        return _ClassWork(dataset, job, bar).run(missing)


class _ClassWork:
    """Encodes classes one after another, those that no other process has taken."""

    def __init__(self, dataset: Dataset, job: EncodeJob, bar: Bar) -> None:
        self._dataset, self._job, self._bar = dataset, job, bar
        self._claims: dict[int, Claim] = {}
        self._encoded = Encoded()

    def run(self, missing: Sequence[int]) -> Encoded:
        """Encode, then wait for the classes of others, taking those up that they leave."""
        taken = self._sweep(missing)
        if taken:
            names = listed([self._dataset.classes[index].name for index in taken])
            self._job.progress.note(f"waiting for classes that other processes are encoding: {names}")
        while taken:
            time.sleep(WAIT_S)
            # One at a time: nobody waits while they hold a claim.
            taken = [index for index in taken if self._sweep([index])]
        return self._encoded

    def _sweep(self, missing: Sequence[int]) -> list[int]:
        """Encode what can be claimed; returns the classes that others hold."""
        held_by_others: list[int] = []
        stream = stream_images(
            self._dataset,
            self._claimed(missing, held_by_others),
            self._job.store.resolution,
            self._job.on_bad_image,
            num_workers=self._job.num_workers,
            lookahead=2 * self._job.rows,
        )
        try:
            for index, images in by_class(stream):
                self._encode(self._dataset.classes[index], images)
                self._claims.pop(index).release()
        finally:
            for claim in self._claims.values():
                claim.release()
            self._claims.clear()
        return held_by_others

    def _claimed(self, missing: Sequence[int], held_by_others: list[int]) -> Iterator[int]:
        for index in missing:
            cls = self._dataset.classes[index]
            claim = self._job.store.claim(cls)
            if claim is None:
                held_by_others.append(index)
            elif self._job.store.has(cls):
                claim.release()
                self._bar.advance(len(cls))
            else:
                self._claims[index] = claim
                yield index

    def _encode(self, cls: ImageClass, images: Iterable[LoadedImage]) -> None:
        flip, per_image = self._job.store.flip, rows_per_image(self._job.store.flip)
        shape = (len(cls) * per_image, *self._job.encoder.shape)
        latents = torch.empty(shape, dtype=self._job.store.storage_dtype)  # [n, C, h, w]
        names = (cls.images.name(position) for position in range(len(cls)))
        rows = min(self._job.rows, whole_eights(len(latents)))
        bad: list[BadImage] = []
        indices: list[Tensor] = []

        def batches() -> Iterator[Tensor]:
            for batch in batch_images(flipped(images, flip, cls.name, names), rows, bad):
                indices.append(batch.indices)
                yield batch.images

        kept = seen = 0
        for encoded in self._job.encoder.run(batches(), rows, f"class {cls.name}"):
            latents[kept : kept + len(encoded)] = encoded
            kept += len(encoded)
            self._bar.advance(kept // per_image - seen)
            seen = kept // per_image
        self._bar.advance(len(cls) - seen)
        self._job.store.put(cls, latents[:kept], torch.cat(indices), tuple(bad))
        self._encoded.images += len(cls)
        self._encoded.bytes_written += latents[:kept].nbytes


def _missing_classes(
    dataset: Dataset, store: LatentStore, on_bad_image: str, progress: Progress, check: bool
) -> list[int]:
    """Classes to encode; a damaged file counts as missing."""

    def look(cls: ImageClass) -> ClassLatents | DamagedFileError | None:
        try:
            return store.open(cls, check=check)
        except DamagedFileError as error:
            return error

    missing = []
    with ThreadPoolExecutor(_CHECK_THREADS, thread_name_prefix="check") as pool:
        for position, found in enumerate(pool.map(look, dataset.classes)):
            cls = dataset.classes[position]
            if isinstance(found, DamagedFileError):
                progress.note(f"warning: {found}; encoding class {cls.name} again")
                # Gone at once: a claim is given up by whoever finds the class stored.
                store.path(cls).unlink(missing_ok=True)
                found = None
            if found is None:
                missing.append(position)
            elif found.bad_images and on_bad_image == "error":
                bad = found.bad_images[0]
                raise bad_image_error(cls.images.location(bad.image_index), bad.reason)
    return missing


def _report(
    dataset: Dataset, store: LatentStore, encoded: Encoded, seconds: float, share: StreamShare | None
) -> EncodeReport:
    counts: dict[str, int] = {}
    bad: list[BadImage] = []
    for cls in dataset.classes:
        found = store.open(cls)
        if found is None and share is not None:
            continue
        if found is None:
            raise UserError(
                f"latents of class {cls.name} must stay during a run, got deleted: {store.path(cls)}"
            )
        counts[cls.name] = len(found.index)
        bad.extend(found.bad_images)
    reused = max(0, len(dataset) - encoded.images)
    return EncodeReport(encoded.images, reused, seconds, counts, tuple(bad), encoded.bytes_written)
