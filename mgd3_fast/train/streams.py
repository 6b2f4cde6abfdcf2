"""Streams to train on: read once to the end, their pixels kept in the cache as latents are.

An autoencoder sees images in random order, and a stream has only the one. Pixels are what an encoder that
leaves images as they are makes of them, so the latent store keeps them: in parts, from which a reading that
was stopped goes on, memory-mapped, and found again by the next run.

Shape letters: B images, R resolution in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mgd3_fast.config.train import TrainConfig
from mgd3_fast.datasets import Dataset, Framing, ImageStream, describe
from mgd3_fast.latents import Encoder, LatentStore, encode_dataset, encode_stream, make_job
from mgd3_fast.progress import Progress


class Pixels:
    """An encoder that leaves images as they are."""

    digest, downsample, latent_channels = "pixels", 1, 3

    def encode(self, images: Tensor) -> Tensor:
        """Turn uint8 `[B, 3, R, R]` into the same values as float32."""
        return images.float()

    def to(self, device: torch.device, dtype: torch.dtype) -> Pixels:
        """Stay: there is nothing to move."""
        return self


def pixel_store(config: TrainConfig, resolution: int, framing: Framing) -> LatentStore:
    """Where the pixels of streams are kept, uint8 `[3, R, R]` an image."""
    return LatentStore(
        config.cache_dir, Pixels.digest, resolution, storage_dtype=torch.uint8, framing=framing
    )


def read_stream(
    opened: Dataset | ImageStream,
    encoder: Encoder,
    store: LatentStore,
    config: TrainConfig,
    progress: Progress,
    device: torch.device | str = "cpu",
) -> Dataset:
    """Read a stream to its end, as far as what the encoder makes of it is not in the store.

    Args:
        opened: The stream, or the dataset it is where it was read before.
        encoder: What is kept of an image.
        store: Where.
        config: Classes, and what to do about bad images.
        progress: Where the bar goes.
        device: Where the encoder runs.

    Returns:
        The dataset.

    Raises:
        UserError: A bad image with `on_bad_image` "error", no room on the disk, a class without images, or
            the stream broke off; what was read is kept.
    """
    rule = config.on_bad_image
    if isinstance(opened, Dataset):
        encode_dataset(opened, encoder, store, device=device, on_bad_image=rule, progress=progress)
        return opened
    job = make_job(encoder, store, device=device, on_bad_image=rule, progress=progress)
    dataset, _ = encode_stream(opened, job, classes=config.classes)
    assert dataset is not None  # only a share of the shards would leave some unread
    progress.note(describe(dataset))
    return dataset
