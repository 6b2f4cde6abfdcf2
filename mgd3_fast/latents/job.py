"""How a run encodes, whatever it encodes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from mgd3_fast.config.encode import ON_BAD_IMAGE
from mgd3_fast.errors import UserError
from mgd3_fast.latents.batch_encoder import BatchEncoder, batch_rows
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.store import LatentStore
from mgd3_fast.progress import SILENT, Bar, Progress

# How often to look whether another process has finished what it claimed.
WAIT_S = 0.5


@dataclass(frozen=True)
class EncodeJob:
    """An encoder on its device, the store it fills, and the rules.

    Args:
        encoder: Encodes batches.
        store: Receives latents.
        rows: Most rows of a batch, a multiple of 8.
        on_bad_image: "error" or "skip".
        num_workers: Decoding threads, None for one per processor.
        progress: Where bars and notes go.
    """

    encoder: BatchEncoder
    store: LatentStore
    rows: int
    on_bad_image: str
    num_workers: int | None
    progress: Progress

    def bar(self, *, total: int | None, initial: int) -> AbstractContextManager[Bar]:
        """Open the bar of the stage; its first batch waits for the decoders and for libraries to load.

        Args:
            total: Images of the stage, None where nobody knows.
            initial: Of them, those that are there.

        Returns:
            A context that yields the bar.
        """
        return self.progress.stage(
            "encode", total=total, unit="img", initial=initial, batch=self.rows, first_apart=True
        )


@dataclass
class Encoded:
    """What one process has encoded."""

    images: int = 0
    bytes_written: int = 0
    seconds: float = 0.0


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

    Returns:
        The job.

    Raises:
        UserError: A resolution that the autoencoder cannot take, a batch size below 1, or no such rule for
            bad images.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise UserError(f"on_bad_image must be one of {', '.join(ON_BAD_IMAGE)}, got {on_bad_image!r}")
    device = torch.device(device)
    shape = latent_shape(autoencoder, store.resolution)
    rows = batch_rows(batch_size, store.resolution, device)
    autoencoder.to(device, store.dtype)
    encoder = BatchEncoder(autoencoder, shape, device)
    return EncodeJob(encoder, store, rows, on_bad_image, num_workers, progress)
