"""What the autoencoders of diffusers share behind the seam: first use loads them, batches have one shape.

Shape letters: B images, b images of a batch, P resolution in pixels, C latent channels, h w latent size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mgd3_fast.generators.digest import weights_digest

Self = TypeVar("Self", bound="BatchedAutoencoder")

_LARGEST_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class BatchChoice:
    """How a device decodes or encodes; fixed, because another choice changes the last bits of an image.

    Args:
        pixels: Most pixels of a batch; the float32 decoder of KL-f8 takes 4.3 KB a pixel at its peak.
        channels_last: Dtypes whose convolutions run channels-last.
    """

    pixels: int
    channels_last: frozenset[torch.dtype] = frozenset()

    def rows(self, pixels: int) -> int:
        """Return the images of a batch at so many pixels an image: a power of two, 32 at most."""
        return 1 << min(_LARGEST_BATCH, max(1, self.pixels // pixels)).bit_length() - 1


# Measured by bench/bench_decode.py on a CPU of two cores: KL-f8 at 256 px decodes as many images a second one
# by one as two by two, and one by one pads nothing; of 32 px images the rate grows up to 32. Channels-last
# makes float32 1.0 to 1.27 times as fast and bfloat16 0.77 to 1.1. On a GPU nothing is measured; aten's
# GroupNorm is known to be slow there on channels-last, and 2**21 pixels take 8.6 GiB.
DECODE_CHOICES = {
    "cpu": BatchChoice(pixels=2**16, channels_last=frozenset({torch.float32})),
    "cuda": BatchChoice(pixels=2**21),
}
ENCODE_CHOICES = {"cpu": BatchChoice(pixels=2**19), "cuda": BatchChoice(pixels=2**21)}


class BatchedAutoencoder(ABC):
    """An autoencoder of diffusers, deterministic; a family says how its network encodes and decodes a batch.

    A call is split into batches of one shape per resolution, the last one padded, so the bytes of an image
    or latent do not depend on which others are in the call.

    Args:
        source: Where the weights come from: a path or a hub id.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        self._device, self._dtype = torch.device("cpu"), torch.float32

    @cached_property
    def _network(self) -> Any:
        return _placed(self._load(), self._device, self._dtype)

    @abstractmethod
    def _load(self) -> Any:
        """Load the float32 network on the CPU."""

    def _weights(self) -> Mapping[str, Tensor]:
        """Read the network's float32 weights by its names; a family that needs no network for it says how."""
        weights: Mapping[str, Tensor] = self._load().state_dict()
        return weights

    @property
    @abstractmethod
    def _identity(self) -> str:
        """What decides latents besides the weights."""

    @property
    @abstractmethod
    def downsample(self) -> int:
        """Image pixels per latent pixel."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels C of a latent."""

    @property
    @abstractmethod
    def scaling_factor(self) -> float:
        """What encoded images are multiplied by: 1 / standard deviation of the latents."""

    @property
    def shift_factor(self) -> float:
        """What is subtracted from encoded images before scaling; 0 for most."""
        return 0.0

    @abstractmethod
    def _encoded(self, pixels: Tensor) -> Tensor:
        """Encode `[b, 3, P, P]` in -1..1 of the network's dtype, without shift and scale."""

    @abstractmethod
    def _decoded(self, latents: Tensor) -> Tensor:
        """Decode float32 `[b, C, h, w]`, shift and scale undone, to `[b, 3, P, P]` in -1..1."""

    @cached_property
    def digest(self) -> str:
        """sha256 over the float32 weights, scale and shift; reads them."""
        return weights_digest(self._weights(), self._identity)

    def to(self: Self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        """Move the network, now or when it loads.

        Args:
            device: Where it runs.
            dtype: float32 or bfloat16.

        Returns:
            Itself.

        Raises:
            ValueError: `dtype` is another one; in float16 activations of the published decoders overflow.
        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"autoencoder dtype must be torch.float32 or torch.bfloat16, got {dtype}")
        device = torch.device(device)
        if "_network" in self.__dict__ and (device, dtype) != (self._device, self._dtype):
            if self._dtype == torch.float32:
                _placed(self._network, device, dtype)
            else:
                del self._network  # rounded weights cannot be turned back
        self._device, self._dtype = device, dtype
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Encode images as (encoder's output - shift) * scale, without sampling and without a random flip.

        Args:
            images: uint8 `[B, 3, P, P]` on any device; P a multiple of `downsample`.

        Returns:
            float32 `[B, C, h, w]` on the device of `images`.

        Raises:
            ValueError: `images` has another dtype or shape.
        """
        step = self.downsample
        fits = images.ndim == 4 and images.shape[1] == 3 and not any(side % step for side in images.shape[2:])
        if images.dtype != torch.uint8 or not fits:
            raise ValueError(
                f"images must be uint8 [B, 3, P, P] with P a multiple of {step},"
                f" got {images.dtype} {list(images.shape)}"
            )

        def encode_batch(batch: Tensor) -> Tensor:
            pixels = batch.to(torch.float32) / 127.5 - 1
            encoded = self._encoded(pixels.to(self._dtype)).float()
            return (encoded - self.shift_factor) * self.scaling_factor  # [b, C, h, w]

        height, width = images.shape[2:]
        empty = torch.empty(0, self.latent_channels, height // step, width // step)
        rows = _choice(ENCODE_CHOICES, self._device).rows(height * width)
        latents = [batch.to(images.device) for batch in self._in_batches(encode_batch, images, rows)]
        return torch.cat([empty.to(images.device), *latents])

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, clamp to the range of pixels and round to whole levels.

        Args:
            latents: float32 `[B, C, h, w]` on any device.

        Returns:
            uint8 `[B, 3, P, P]` on the device of `latents`.

        Raises:
            ValueError: `latents` has another shape.
        """
        pixels = [batch.to(latents.device) for batch in self.decode_batches(latents)]
        height, width = (side * self.downsample for side in latents.shape[2:])
        empty = torch.empty(0, 3, height, width, dtype=torch.uint8, device=latents.device)
        return torch.cat([empty, *pixels])

    def decode_batches(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode as `decode`, one batch after another, and leave the pixels where the network runs.

        Args:
            latents: float32 `[B, C, h, w]` on any device.

        Returns:
            Iterator over uint8 `[b, 3, P, P]` on the network's device, b of them at most `decode_rows`.

        Raises:
            ValueError: `latents` has another shape.
        """
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(f"latents must be [B, {self.latent_channels}, h, w], got {list(latents.shape)}")

        def decode_batch(batch: Tensor) -> Tensor:
            pixels = self._decoded(batch.float() / self.scaling_factor + self.shift_factor).float()
            return pixels.mul(0.5).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)

        return self._in_batches(decode_batch, latents, self.decode_rows(*latents.shape[2:]))

    def decode_rows(self, height: int, width: int) -> int:
        """Return the images of a decode batch.

        Args:
            height: h of the latents.
            width: w of the latents.

        Returns:
            Its rows, whatever the number of images of a call.
        """
        return _choice(DECODE_CHOICES, self._device).rows(height * width * self.downsample**2)

    def _for_decoder(self, latents: Tensor) -> Tensor:
        """Bring latents to the decoder's dtype and memory format."""
        latents = latents.to(self._dtype)
        if self._dtype in _choice(DECODE_CHOICES, self._device).channels_last:
            latents = latents.contiguous(memory_format=torch.channels_last)
        return latents

    @torch.no_grad()
    def _in_batches(self, apply: Callable[[Tensor], Tensor], inputs: Tensor, rows: int) -> Iterator[Tensor]:
        """Apply to batches of `rows` rows; the last one is padded and its results cut."""
        for batch in torch.split(inputs, rows) if len(inputs) else ():
            padded = torch.cat([batch, batch[-1:].expand(rows - len(batch), -1, -1, -1)])  # [rows, ...]
            yield apply(padded.to(self._device))[: len(batch)]


def _choice(choices: dict[str, BatchChoice], device: torch.device) -> BatchChoice:
    return choices.get(device.type, choices["cpu"])


def _placed(network: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move by torch's own method; that of diffusers warns, of an empty list of layers."""
    nn.Module.to(network, device, dtype)
    channels_last = dtype in _choice(DECODE_CHOICES, device).channels_last
    network.decoder.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return network
