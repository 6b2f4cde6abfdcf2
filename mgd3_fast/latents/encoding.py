"""Images to stored latents: one shard at a time, finished ones skipped.

Every process takes shards that no other has taken, and stores their latents in parts, in the order of the
shard.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from mgd3_fast.datasets import (
    BadImage,
    Dataset,
    ImageStream,
    Shard,
    no_good_image_error,
    rows_of,
    shards_of,
)
from mgd3_fast.datasets.class_names import plain_names
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.datasets.shard_index import build_index, index_path, stream_shards, write_index
from mgd3_fast.datasets.shards import has_mixed_shards
from mgd3_fast.errors import UserError
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.flipping import rows_per_image
from mgd3_fast.latents.parts import read_columns
from mgd3_fast.latents.shard_encoder import Encoded, EncodeJob, ShardEncoder, Work, make_job
from mgd3_fast.latents.shard_work import Wanted, work_left
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import SILENT, Progress

# Left free on the disk beyond the latents themselves.
_MARGIN_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Share:
    """Which shards a process encodes: every N-th, from the I-th.

    Args:
        part: I, from 1.
        parts: N.
    """

    part: int = 1
    parts: int = 1

    def of_shards(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """Those of this process."""
        return shards[self.part - 1 :: self.parts]

    def of_classes(self, dataset: Dataset) -> Dataset:
        """The classes of this process, where a class is a shard.

        Raises:
            UserError: There are fewer classes than processes, and none for this one.
        """
        classes = dataset.classes[self.part - 1 :: self.parts]
        if not classes:
            raise UserError(
                f"shard must be of at most {len(dataset.classes)} classes, got {self.part}/{self.parts}"
            )
        return dataset.subset([cls.label for cls in classes])


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
    share: Share | None = None,
) -> EncodeReport:
    """Encode the images whose latents are not stored yet.

    Other processes may do the same at the same time: each shard is encoded by one of them, and this
    function waits for what others have taken.

    Args:
        dataset: The classes.
        autoencoder: Encodes; moved to `device` when there is work.
        store: Receives latents; sets resolution, number format, flip and framing.
        resolution: The store's, if given.
        batch_size: See `make_job`, as for the next four.
        device: Where to encode.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads.
        progress: Where the bar and notes go.
        check: Compare stored latents with their checksums, which reads them; damaged ones are made anew.
        share: The shards of this process; classes that are not stored in whole are then left out of the
            report.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, no room on the disk, a resolution that the
            autoencoder cannot take, latents that are not finite, or a stream is not as it was.
    """
    started = time.monotonic()
    if resolution not in (None, store.resolution):
        raise UserError(f"resolution must be the latent store's {store.resolution}, got {resolution}")
    if dataset.framing != store.framing:
        raise UserError(f"framing must be the latent store's {store.framing}, got {dataset.framing}")
    shape = latent_shape(autoencoder, store.resolution)
    store.prepare()
    mixed = has_mixed_shards(dataset)
    if share is not None and dataset.classes and not mixed:
        dataset, share = share.of_classes(dataset), None
    shards = shards_of(dataset)
    labels = frozenset(cls.label for cls in dataset.classes) if mixed else None
    if dataset.stream is not None and dataset.stream.class_names is None:
        labels = None  # the rows of such a stream do not tell which class is which
    wanted = Wanted(share.of_shards(shards) if share else shards, labels, len(dataset.all_class_names))
    work, stored = work_left(wanted, store, on_bad_image, progress, check=check)
    encoded = Encoded()
    if work:
        store.check_writable()
        job = make_job(
            autoencoder,
            store,
            batch_size=batch_size,
            device=device,
            on_bad_image=on_bad_image,
            num_workers=num_workers,
            progress=progress,
        )
        _check_room(store, _images_left(dataset, work, mixed), shape, progress)
        encoded = _encode(work, job, sum(shard.count or 0 for shard in wanted.shards), stored)
        if dataset.stream is not None:
            _check_unchanged(dataset.stream, work, store)
    return _report(dataset, store, encoded, time.monotonic() - started, share)


def encode_stream(
    stream: ImageStream,
    job: EncodeJob,
    *,
    classes: str | None = None,
    split: str = "train",
    share: Share | None = None,
) -> tuple[Dataset | None, Encoded]:
    """Read a stream that was never read, encode what is chosen, and make it a dataset.

    Args:
        stream: The stream.
        job: How to encode; its store's root also receives the stream's index.
        classes: Selector; others are read and passed over.
        split: What the dataset's split is called.
        share: The shards of this process; by default all that no other process has taken, and it waits for
            the others.

    Returns:
        The dataset, or None while shards of other shares are missing; and what this process has encoded.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, a label out of range, a class without images, or
            the stream broke off; what was encoded is kept.
    """
    started = time.monotonic()
    store, progress = job.store, job.progress
    store.prepare()
    store.check_writable()
    names, labels = stream.class_names, None
    if names is not None:
        chosen = range(len(names)) if classes is None else select_classes(classes, plain_names(names))
        labels = frozenset(chosen)
    shards = stream_shards(stream)
    wanted = Wanted(share.of_shards(shards) if share else shards, labels, len(names or ()))
    progress.note(f"encode: {stream.location} is read in {len(shards):,} shards")
    if stream.num_images is not None and classes is None:
        _check_room(store, stream.num_images, job.encoder.shape, progress)
    work, stored = work_left(wanted, store, job.on_bad_image, progress, check=True)
    encoded = _encode(work, job, stream.num_images, stored)
    encoded.seconds = time.monotonic() - started
    columns = [read_columns(found.parts) for shard in shards for found in islice(store.readings(shard), 1)]
    if len(columns) < len(shards):
        progress.note(f"{len(columns):,} of {len(shards):,} shards are encoded: the rest is left to others")
        return None, encoded
    index = build_index(columns, names, stream.location)
    write_index(index_path(stream, store.root), index)
    dataset = index.dataset(stream, stream_shards(stream, index), classes, split)
    return replace(dataset, framing=store.framing), encoded


def _encode(work: Sequence[Work], job: EncodeJob, total: int | None, stored: int) -> Encoded:
    # The first batch waits for the decoders and for libraries to load.
    with job.progress.stage(
        "encode", total=total, unit="img", initial=stored, batch=job.rows, first_apart=True
    ) as bar:
        encoder = ShardEncoder(job, bar)
        encoder.run(work)
    job.store.forget()
    return encoder.encoded


def _images_left(dataset: Dataset, work: Sequence[Work], mixed: bool) -> int:
    """Images to encode, at most."""
    if not mixed:
        return sum((one.shard.count or 0) - one.stored for one in work)
    left = {id(one.shard) for one in work}
    return sum(len(rows) for cls in dataset.classes for shard, _, rows in rows_of(cls) if id(shard) in left)


def _check_room(store: LatentStore, images: int, shape: tuple[int, int, int], progress: Progress) -> None:
    """Say how large the latents of some images will be, and refuse a disk without room for them."""
    needed = images * rows_per_image(store.flip) * math.prod(shape) * store.storage_dtype.itemsize
    progress.note(f"encode: {images:,} images, {_size(needed)} of latents into {store.folder}")
    free = shutil.disk_usage(store.folder).free
    if needed + _MARGIN_BYTES > free:
        raise UserError(
            f"{store.folder} has too little room: {_size(free)} are free, {_size(needed)} are needed for"
            f" latents, and {_size(_MARGIN_BYTES)} must stay free; choose another --cache-dir"
        )


def _size(count: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.3g} {unit}"


def _check_unchanged(stream: ImageStream, work: Sequence[Work], store: LatentStore) -> None:
    """A second reading must have given what the first one gave."""
    found = [(one.shard.digest, store.reading(one.shard, one.labels)) for one in work]
    if any(one.is_complete and read_columns(one.parts).digest() != digest for digest, one in found):
        index_path(stream, store.root).unlink(missing_ok=True)
        raise UserError(
            f"{stream.location} gave other images than when it was first read: run again to take them as"
            " they are now"
        )


def _report(
    dataset: Dataset, store: LatentStore, encoded: Encoded, seconds: float, share: Share | None
) -> EncodeReport:
    counts: dict[str, int] = {}
    bad: list[BadImage] = []
    for cls in dataset.classes:
        found = store.open(cls, again=share is None)
        if found is None and share is not None:
            continue
        if found is None:
            raise UserError(
                f"the latents of class {cls.name} in {store.folder} were deleted while the others were made:"
                " run again"
            )
        if not len(found):
            raise no_good_image_error(cls.name, len(cls))
        counts[cls.name] = len(found)
        bad.extend(found.bad_images)
    reused = max(0, len(dataset) - encoded.images)
    return EncodeReport(encoded.images, reused, seconds, counts, tuple(bad), encoded.bytes_written)
