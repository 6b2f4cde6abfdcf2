"""The latents a DiT is trained on: those of every image, and of changed copies of it.

Shape letters: B images, n images of a class, C channels, h w latent size, R resolution in pixels.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from mgd3_fast.datasets import Dataset
from mgd3_fast.fit import step_generator
from mgd3_fast.generators import Autoencoder
from mgd3_fast.latents import ClassLatents, LatentStore, encode_dataset, note_old_latents
from mgd3_fast.run.sources import note_skipped
from mgd3_fast.train.augment import augment
from mgd3_fast.train.run import TrainingRun


class ChangedCopies:
    """An autoencoder that changes images before it encodes them.

    How an image is changed depends on its pixels and the number of the copy alone, so that encoding can
    stop and go on anywhere.

    Args:
        autoencoder: Encodes.
        augmentation: A name of `AUGMENTATIONS`.
        copy: Number of the copy, from 1.
    """

    def __init__(self, autoencoder: Autoencoder, augmentation: str, copy: int) -> None:
        self._autoencoder, self._augmentation, self._copy = autoencoder, augmentation, copy

    @property
    def digest(self) -> str:
        """Tells these latents from those of other copies."""
        return f"{self._augmentation}{self._copy}-{self._autoencoder.digest}"

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel."""
        return self._autoencoder.downsample

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._autoencoder.latent_channels

    def to(self, device: torch.device, dtype: torch.dtype) -> ChangedCopies:
        """Move the autoencoder."""
        self._autoencoder.to(device, dtype)
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Turn uint8 `[B, 3, R, R]` into float32 `[B, C, h, w]` of their changed copies."""
        return self._autoencoder.encode(
            torch.cat([self._changed(image) for image in torch.split(images.cpu(), 1)])
        )

    def _changed(self, image: Tensor) -> Tensor:
        checksum = zlib.crc32(image.numpy().tobytes())
        return augment(image, self._augmentation, step_generator(checksum, self._augmentation, self._copy))


class TrainingLatents:
    """Latents by image number, memory-mapped: image i has copies 0 (itself) to K.

    Args:
        copies: Per copy, per class, its latents.
        class_ids: The network's id of each class.
    """

    def __init__(self, copies: list[list[ClassLatents]], class_ids: list[int]) -> None:
        self._copies = copies
        counts = torch.tensor([len(latents) for latents in copies[0]])
        self._starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._class_ids = torch.tensor(class_ids)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def num_copies(self) -> int:
        """Copies of each image, itself included."""
        return len(self._copies)

    def batch(self, indices: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
        """Gather the latents of images by number and copy, int64 `[B]` each.

        Returns:
            Latents float32 `[B, C, h, w]` and class ids int64 `[B]`.
        """
        classes = torch.bucketize(indices, self._starts, right=True) - 1
        places = indices - self._starts[classes]
        chosen = zip(copies.tolist(), classes.tolist(), places.tolist(), strict=True)
        rows = [self._copies[copy][cls].row(place) for copy, cls, place in chosen]
        return torch.stack(rows).float(), self._class_ids[classes]


def training_latents(run: TrainingRun, autoencoder: Autoencoder, class_ids: list[int]) -> TrainingLatents:
    """Encode a dataset, and changed copies of it, as far as the latents are not in the cache already.

    Args:
        run: The run.
        autoencoder: The encoder.
        class_ids: The network's id of each class.

    Returns:
        The latents.

    Raises:
        UserError: As `encode_dataset`.
    """
    config = run.config
    changed = 0 if config.augment == "none" else config.augment_copies
    encoders: list[Autoencoder | ChangedCopies] = [
        autoencoder,
        *(ChangedCopies(autoencoder, config.augment, copy + 1) for copy in range(changed)),
    ]
    note_old_latents(_store(run, autoencoder), run.progress)
    return TrainingLatents([_encoded(run, run.dataset, encoder) for encoder in encoders], class_ids)


def held_out_latents(
    run: TrainingRun, autoencoder: Autoencoder, class_ids: list[int]
) -> TrainingLatents | None:
    """Encode the held-out images of a run, where it has any; see `training_latents`."""
    if run.held_out is None:
        return None
    ids = dict(zip(run.dataset.class_names, class_ids, strict=True))
    latents = _encoded(run, run.held_out, autoencoder)
    return TrainingLatents([latents], [ids[name] for name in run.held_out.class_names])


def _store(run: TrainingRun, encoder: Autoencoder | ChangedCopies) -> LatentStore:
    return LatentStore(run.config.cache_dir, encoder.digest, run.resolution, framing=run.dataset.framing)


def _encoded(run: TrainingRun, dataset: Dataset, encoder: Autoencoder | ChangedCopies) -> list[ClassLatents]:
    """The latents of each class, encoded as far as they are not in the cache."""
    store, rule = _store(run, encoder), run.config.on_bad_image
    report = encode_dataset(
        dataset, encoder, store, device=run.device, on_bad_image=rule, progress=run.progress
    )
    if not isinstance(encoder, ChangedCopies):  # which lack the same images
        note_skipped(report.bad_images, run.progress)
    return stored_latents(store, dataset)


def stored_latents(store: LatentStore, dataset: Dataset) -> list[ClassLatents]:
    """What a store that was filled holds of each class."""
    found = [store.open(cls) for cls in dataset.classes]
    return [latents for latents in found if latents is not None]
