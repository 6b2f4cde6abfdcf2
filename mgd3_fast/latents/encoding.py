"""Images to stored latents: one shard at a time, finished ones skipped.

Every process takes shards that no other has taken, and stores their latents in parts, in the order of the
shard.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from mgd3_fast.datasets import BadImage, Dataset, ImageStream, Shard, ShardImages, rows_of, shards_of
from mgd3_fast.datasets.class_names import plain_names
from mgd3_fast.datasets.selector import select_classes
from mgd3_fast.datasets.shard_index import build_index, index_path, stream_shards, write_index
from mgd3_fast.errors import UserError
from mgd3_fast.latents.disk_room import check_room
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.job import Encoded, EncodeJob, make_job
from mgd3_fast.latents.parts import read_columns
from mgd3_fast.latents.shard_encoder import ShardEncoder, Work
from mgd3_fast.latents.shard_work import Left, Wanted, work_left
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import SILENT, Progress


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
        store: Receives latents; sets resolution, number format and flip.
        resolution: The store's, if given.
        batch_size: Images per batch, rounded up to a multiple of 8; by default what the device takes well.
        device: Where to encode.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; see `stream_images`.
        progress: Where the bar and notes go.
        check: Compare stored latents with their checksums, which reads them; damaged ones are made anew.
        share: The shards of this process; classes that are not stored in whole are then left out of the
            report.

    Returns:
        What was done.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, no room on the disk, a resolution that the
            autoencoder cannot take, latents that are not finite, or a stream is not as it was.
    """
    started = time.monotonic()
    if resolution not in (None, store.resolution):
        raise UserError(f"resolution must be the latent store's {store.resolution}, got {resolution}")
    latent_shape(autoencoder, store.resolution)
    store.prepare()
    if share is not None and dataset.classes and not _has_mixed_shards(dataset):
        dataset, share = share.of_classes(dataset), None
    shards = shards_of(dataset)
    labels = frozenset(cls.label for cls in dataset.classes) if _has_mixed_shards(dataset) else None
    if dataset.stream is not None and dataset.stream.class_names is None:
        labels = None  # the rows of such a stream do not tell which class is which
    wanted = Wanted(share.of_shards(shards) if share else shards, labels, len(dataset.all_class_names))
    left = work_left(wanted, store, on_bad_image, progress, check=check)
    encoded = Encoded()
    if left.work:
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
        check_room(store, _images_left(dataset, left.work), job.encoder.shape, progress)
        encoded = _encode(left, job, sum(shard.count or 0 for shard in wanted.shards))
        if dataset.stream is not None:
            _check_unchanged(dataset.stream, left.work, store)
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
        classes: Selector of `--classes`: others are read and passed over.
        split: "train", "val" or "test".
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
    names = stream.class_names
    labels = None
    if names is not None:
        labels = frozenset(
            range(len(names)) if classes is None else select_classes(classes, plain_names(names))
        )
    shards = stream_shards(stream)
    wanted = Wanted(share.of_shards(shards) if share else shards, labels, len(names or ()))
    progress.note(f"encode: {stream.location} is read in {len(shards):,} shards")
    if stream.num_images is not None and classes is None:
        check_room(store, stream.num_images, job.encoder.shape, progress)
    left = work_left(wanted, store, job.on_bad_image, progress, check=True)
    encoded = _encode(left, job, stream.num_images)
    encoded.seconds = time.monotonic() - started
    columns = [read_columns(layer.parts) for shard in shards for layer in islice(store.layers(shard), 1)]
    if len(columns) < len(shards):
        progress.note(f"{len(columns):,} of {len(shards):,} shards are encoded: the rest is left to others")
        return None, encoded
    index = build_index(columns, names, stream.location)
    write_index(index_path(stream, store.root), index)
    return index.dataset(stream, stream_shards(stream, index), classes, split), encoded


def _has_mixed_shards(dataset: Dataset) -> bool:
    return any(isinstance(cls.images, ShardImages) for cls in dataset.classes)


def _encode(left: Left, job: EncodeJob, total: int | None) -> Encoded:
    with job.bar(total=total, initial=left.stored) as bar:
        encoder = ShardEncoder(job, bar)
        encoder.run(left.work)
    job.store.forget()
    return encoder.encoded


def _images_left(dataset: Dataset, work: Sequence[Work]) -> int:
    """Images to encode, at most."""
    if not _has_mixed_shards(dataset):
        return sum((one.shard.count or 0) - one.stored for one in work)
    left = {id(one.shard) for one in work}
    return sum(len(rows) for cls in dataset.classes for shard, _, rows in rows_of(cls) if id(shard) in left)


def _check_unchanged(stream: ImageStream, work: Sequence[Work], store: LatentStore) -> None:
    """A second reading must have given what the first one gave."""
    layers = [(one.shard.digest, store.layer(one.shard, one.labels)) for one in work]
    if any(layer.is_complete and read_columns(layer.parts).digest() != digest for digest, layer in layers):
        index_path(stream, store.root).unlink(missing_ok=True)
        raise UserError(
            f"{stream.location} must be as it was when it was first read, got other images: "
            "run again to take them as they are now"
        )


def _report(
    dataset: Dataset, store: LatentStore, encoded: Encoded, seconds: float, share: Share | None
) -> EncodeReport:
    counts: dict[str, int] = {}
    bad: list[BadImage] = []
    for cls in dataset.classes:
        found = store.open(cls)
        if found is None and share is not None:
            continue
        if found is None:
            raise UserError(
                f"latents of class {cls.name} must stay during a run, got deleted in {store.folder}"
            )
        if not len(found):
            raise UserError(f"class {cls.name} must have at least one good image, all {len(cls)} are bad")
        counts[cls.name] = len(found)
        bad.extend(found.bad_images)
    reused = max(0, len(dataset) - encoded.images)
    return EncodeReport(encoded.images, reused, seconds, counts, tuple(bad), encoded.bytes_written)
