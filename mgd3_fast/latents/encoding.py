"""Images to stored latents: one class at a time, finished classes skipped.

Shape letters: B images of a batch, n images of a class, C channels, h w latent size, R pixels a side.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mgd3_fast.datasets import (
    BadImage,
    Dataset,
    ImageClass,
    LoadedImage,
    batch_images,
    by_class,
    stream_images,
)
from mgd3_fast.errors import UserError
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import SILENT, Bar, Progress
from mgd3_fast.tensor_files import DamagedFileError

# Left free on the disk beyond the latents themselves.
_MARGIN_BYTES = 64 * 2**20
# Batches grow until the first activations, 128 channels at full size, hold this many values: 256 MiB on a
# CPU (8 images of 256 pixels), 4 GiB on a GPU (32 of 512).
_CPU_BATCH_VALUES = 2**26
_GPU_BATCH_VALUES = 2**30
_FIRST_CHANNELS = 128
_LARGEST_BATCH = 64


@dataclass(frozen=True)
class EncodeReport:
    """What an encode stage did.

    Args:
        images: Images encoded now.
        reused: Images whose latents were already stored.
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
) -> EncodeReport:
    """Bring the latents of every class into the store.

    Batches begin with a class and the last one of a class is padded, to a multiple of eight rows: latents
    depend neither on which other classes are encoded nor on what an earlier run had finished.

    Args:
        dataset: The classes.
        autoencoder: The encoder; moved to `device` and the store's dtype when there is something to encode.
        store: Where latents are found and kept.
        resolution: Must be the store's; the store's by default.
        batch_size: Rows of a batch, rounded up to a multiple of 8; by default 64, fewer for large images.
            Classes with fewer images than that take fewer rows.
        device: Where to encode.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads; see `stream_images`.
        progress: Where the bar and notes go.

    Returns:
        What was done.

    Raises:
        UserError: A bad image with `on_bad_image="error"`, no room on the disk, a resolution that the
            autoencoder cannot take, or latents that are not finite.
    """
    started = time.monotonic()
    if resolution not in (None, store.resolution):
        raise UserError(f"resolution must be the latent store's {store.resolution}, got {resolution}")
    shape = latent_shape(autoencoder, store.resolution)
    store.prepare()
    missing = _missing_classes(dataset, store, on_bad_image, progress)
    pending = sum(len(dataset.classes[index]) for index in missing)
    written = 0
    if missing:
        _check_room(store, pending, shape, progress)
        device = torch.device(device)
        autoencoder.to(device, store.dtype)
        rows = _batch_rows(batch_size, store.resolution, device)
        stream = stream_images(
            dataset, missing, store.resolution, on_bad_image, num_workers=num_workers, lookahead=2 * rows
        )
        reused = len(dataset) - pending
        with progress.stage("encode", total=len(dataset), unit="img", initial=reused) as bar:
            encoder = _ClassEncoder(autoencoder, store, shape, rows, device, bar)
            for class_index, images in by_class(stream):
                written += encoder.run(dataset.classes[class_index], images)
    return _report(dataset, store, pending, written, time.monotonic() - started)


@dataclass(frozen=True)
class _ClassEncoder:
    """Encodes one class after another, in batches of one number of rows a class."""

    autoencoder: Encoder
    store: LatentStore
    shape: tuple[int, int, int]
    rows: int
    device: torch.device
    bar: Bar

    def run(self, cls: ImageClass, images: Iterable[LoadedImage]) -> int:
        """Encode and store a class; returns the bytes of its latents."""
        latents = torch.empty(len(cls), *self.shape, dtype=self.store.storage_dtype)  # [n, C, h, w]
        index = torch.empty(len(cls), dtype=torch.int64)
        bad: list[BadImage] = []
        kept = seen = 0
        rows = min(self.rows, _whole_eights(len(cls)))
        for batch in batch_images(images, rows, bad):
            end = kept + len(batch.indices)
            latents[kept:end] = self._encode(cls, batch.images, rows)
            index[kept:end] = batch.indices
            kept = end
            self.bar.advance(kept + len(bad) - seen)
            seen = kept + len(bad)
        self.bar.advance(len(cls) - seen)
        self.store.put(cls, latents[:kept], index[:kept], tuple(bad))
        return latents[:kept].nbytes

    def _encode(self, cls: ImageClass, images: Tensor, rows: int) -> Tensor:
        padding = images[-1:].expand(rows - len(images), -1, -1, -1)
        padded = torch.cat([images, padding]).to(self.device)  # [B, 3, R, R]
        latents = self.autoencoder.encode(padded)[: len(images)].cpu()  # [B, C, h, w]
        got = tuple(latents.shape[1:])
        if got != self.shape:
            raise UserError(f"autoencoder must give latents {self.shape}, got {got}")
        if not torch.isfinite(latents).all():
            raise UserError(f"latents must be finite, got NaN or infinity in class {cls.name}: try fp32")
        return latents


def _missing_classes(
    dataset: Dataset, store: LatentStore, on_bad_image: str, progress: Progress
) -> list[int]:
    """Classes to encode; a damaged file counts as missing."""
    missing = []
    for position, cls in enumerate(dataset.classes):
        try:
            found = store.open(cls)
        except DamagedFileError as error:
            progress.note(f"warning: {error}; encoding class {cls.name} again")
            found = None
        if found is None:
            missing.append(position)
        elif found.bad_images and on_bad_image == "error":
            bad = found.bad_images[0]
            where = cls.images.location(bad.image_index)
            raise UserError(
                f"images must be readable, got {where}: {bad.reason} "
                "(on_bad_image=skip leaves such images out)"
            )
    return missing


def _check_room(store: LatentStore, images: int, shape: tuple[int, int, int], progress: Progress) -> None:
    needed = images * math.prod(shape) * store.storage_dtype.itemsize
    progress.note(f"encode: {images:,} images, {_size(needed)} of latents into {store.folder}")
    free = shutil.disk_usage(store.folder).free
    if needed + _MARGIN_BYTES > free:
        raise UserError(
            f"cache_dir must have room for {_size(needed)} of latents, "
            f"got {_size(free)} free in {store.folder}"
        )


def _batch_rows(batch_size: int | None, resolution: int, device: torch.device) -> int:
    if batch_size is None:
        values = _CPU_BATCH_VALUES if device.type == "cpu" else _GPU_BATCH_VALUES
        batch_size = min(_LARGEST_BATCH, max(1, values // (_FIRST_CHANNELS * resolution**2)))
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    return _whole_eights(batch_size)


def _whole_eights(count: int) -> int:
    """The next multiple of 8: in batches of other sizes matrix libraries treat rows by their place."""
    return -(-count // 8) * 8


def _report(dataset: Dataset, store: LatentStore, encoded: int, written: int, seconds: float) -> EncodeReport:
    counts: dict[str, int] = {}
    bad: list[BadImage] = []
    for cls in dataset.classes:
        found = store.open(cls)
        if found is None:
            raise UserError(
                f"latents of class {cls.name} must stay during a run, got deleted: {store.path(cls)}"
            )
        counts[cls.name] = len(found.index)
        bad.extend(found.bad_images)
    return EncodeReport(encoded, len(dataset) - encoded, seconds, counts, tuple(bad), written)


def _size(count: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.3g} {unit}"
