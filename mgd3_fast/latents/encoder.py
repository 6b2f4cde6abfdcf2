"""Padded batches through an autoencoder; on a GPU the next is prepared while the last is encoded.

Shape letters: B images of a batch, C channels, h w latent size, R pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from mgd3_fast.errors import UserError

# Batches grow until the first activations, 128 channels at full size, hold this many values: 256 MiB on a
# CPU (8 images of 256 pixels), 4 GiB on a GPU (32 of 512).
_CPU_BATCH_VALUES = 2**26
_GPU_BATCH_VALUES = 2**30
_FIRST_CHANNELS = 128
_LARGEST_BATCH = 64
_LARGEST_CPU_BATCH = 32  # pads the 400 images of a class of mnist5k to 416 rows, where 64 pads them to 448


class LatentSize(Protocol):
    """What an autoencoder, or its description, tells of latents."""

    @property
    def latent_channels(self) -> int:
        """C."""
        ...

    @property
    def downsample(self) -> int:
        """Pixels a side per latent value, R / h."""
        ...


class Encoder(LatentSize, Protocol):
    """What encoding needs of an autoencoder."""

    def encode(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 3, R, R] to posterior means x scaling factor, float32 [B, C, h, w]."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> object:
        """Move to a device and number format, in place."""
        ...


def latent_shape(autoencoder: LatentSize, resolution: int) -> tuple[int, int, int]:
    """Shape (C, h, w) of the latents of one image of R = `resolution` pixels a side.

    Raises:
        UserError: `resolution` is not a multiple of the autoencoder's downsampling.
    """
    if left := resolution % autoencoder.downsample:
        above = resolution - left + autoencoder.downsample
        raise UserError(
            f"resolution must be a multiple of {autoencoder.downsample}, such as {above}, got {resolution}"
        )
    side = resolution // autoencoder.downsample
    return autoencoder.latent_channels, side, side


class BatchEncoder:
    """Encodes batches of one number of rows.

    On a GPU, pixels go there from pinned memory and latents come back into it, both asynchronously, and
    the result of a batch is waited for only when the next one is under way.

    Args:
        autoencoder: The encoder, on its device.
        shape: (C, h, w) that it must give.
        device: Where it is.
    """

    def __init__(self, autoencoder: Encoder, shape: tuple[int, int, int], device: torch.device) -> None:
        self.shape = shape
        self._autoencoder, self._device = autoencoder, device

    def run(self, batches: Iterable[Tensor], rows: int, where: str) -> Iterator[Tensor]:
        """Encode batches in turn.

        Args:
            batches: uint8 [B, 3, R, R] each, B at most `rows`; taken one ahead.
            rows: Rows that every batch is padded to.
            where: What the images belong to, for messages.

        Yields:
            float32 [B, C, h, w] on the CPU, one for each batch, in their order.

        Raises:
            UserError: Latents of another shape, or not finite.
        """
        waiting: Callable[[], Tensor] | None = None
        for images in batches:
            started = self._start(images, rows, where)
            if waiting is not None:
                yield waiting()
            waiting = started
        if waiting is not None:
            yield waiting()

    def _start(self, images: Tensor, rows: int, where: str) -> Callable[[], Tensor]:
        """Begin one batch; the result of the returned function is its latents."""
        count = len(images)
        padded = torch.cat([images, images[-1:].expand(rows - count, -1, -1, -1)])  # [rows, 3, R, R]
        if self._device.type != "cuda":
            latents = self._autoencoder.encode(padded.to(self._device))[:count]
            return lambda: self._checked(latents.cpu(), where)
        on_device = padded.pin_memory().to(self._device, non_blocking=True)
        encoded = self._autoencoder.encode(on_device)[:count]
        host = torch.empty(encoded.shape, dtype=encoded.dtype, pin_memory=True)
        host.copy_(encoded, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))

        def wait() -> Tensor:
            done.synchronize()
            return self._checked(host, where)

        return wait

    def _checked(self, latents: Tensor, where: str) -> Tensor:
        got = tuple(latents.shape[1:])
        if got != self.shape:
            raise UserError(f"autoencoder must give latents {self.shape}, got {got}")
        if not torch.isfinite(latents).all():
            raise UserError(f"the latents of {where} hold NaN or infinity: try precision fp32")
        return latents


def batch_rows(batch_size: int | None, resolution: int, device: torch.device) -> int:
    """Rows of a batch: what was asked for, or what the device takes well, in whole eights."""
    if batch_size is None:
        values, most = _GPU_BATCH_VALUES, _LARGEST_BATCH
        if device.type == "cpu":
            values, most = _CPU_BATCH_VALUES, _LARGEST_CPU_BATCH
        batch_size = min(most, max(1, values // (_FIRST_CHANNELS * resolution**2)))
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    return whole_eights(batch_size)


def whole_eights(count: int) -> int:
    """The next multiple of 8: in batches of other sizes matrix libraries treat rows by their place."""
    return -(-count // 8) * 8
