"""What autoencoders share behind the seam: the first use loads them, and batches have fixed shapes.

Shape letters: B images, b images of a batch, P resolution in pixels, C latent channels, h w latent size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mgd3_engine.autoencoder import AutoencoderConfig, filled_network
from mgd3_engine.files.digest import weights_digest
from mgd3_fast.generators.autoencoder_weights import read_autoencoder
from mgd3_fast.generators.hub import loaded_or_refused

Self = TypeVar("Self", bound="Autoencoder")


@dataclass(frozen=True)
class BatchChoice:
    """How many images a device decodes or encodes at once, whatever the number of images of a call.

    Args:
        largest: Most images of a batch; a power of two.
        pixel_bytes: Most pixels of a batch times bytes of a number.
    """

    largest: int
    pixel_bytes: int

    def rows(self, pixels: int, dtype: torch.dtype) -> int:
        """Return the images of a batch at so many pixels an image: a power of two."""
        fitting = max(1, self.pixel_bytes // (pixels * dtype.itemsize))
        return 1 << min(self.largest, fitting).bit_length() - 1


# On one CPU core the demo's network takes, at 32 px and in batches of 1, 2, 4, 8, 16, 32, so many ms of CPU
# time an image: 7.0, 3.4, 2.0, 1.6, 1.4, 1.4 to encode and 9.3, 5.2, 3.7, 2.9, 3.2, 2.5 to decode; KL-f8
# gains nothing from batches at 64 px. On an H200 in bfloat16 at 256 px, diffusers' network decoded 320 images
# a second in batches of 32 and 399 in batches of 64; float32 takes half as many, to fit in the same memory.
CHOICES = {"cpu": BatchChoice(32, 2**17), "cuda": BatchChoice(64, 2**23)}


class Autoencoder(ABC):
    """Between images and the latents that a network denoises; weights load on first use.

    A family says how its network encodes and decodes a batch.

    A call is split into batches of one shape per resolution and the last one is padded to it, so that the
    bytes of an image do not depend on the rest of the call.

    Args:
        source: Where the weights come from: a path or a hub id.
    """

    licence: str

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        self._device, self._dtype = torch.device("cpu"), torch.float32

    @property
    @abstractmethod
    def _path(self) -> Path:
        """Folder or file of the weights."""

    @property
    @abstractmethod
    def _config(self) -> AutoencoderConfig:
        """The architecture, known without the weights."""

    @property
    @abstractmethod
    def _identity(self) -> str:
        """What decides latents besides the weights."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels C of a latent."""

    @abstractmethod
    def _encoded(self, pixels: Tensor, images: Tensor) -> Tensor:
        """Encode `[b, 3, P, P]` pixels, `images` in -1..1 in the network's dtype, without shift and scale."""

    @abstractmethod
    def _decoded(self, latents: Tensor) -> Tensor:
        """Decode float32 `[b, C, h, w]`, shift and scale undone, to `[b, 3, P, P]` in -1..1."""

    @cached_property
    def _network(self) -> Any:
        return _placed(self.load_network(), self._device, self._dtype)

    def load_network(self) -> nn.Module:
        """Load the float32 network on the CPU, for evaluation, without gradients; another in every call.

        Weights that are float32 in their file stay mapped from it.

        Raises:
            FileNotFoundError, ValueError: They are missing, damaged or do not fit their settings.
        """
        weights = read_autoencoder(self._path)
        with loaded_or_refused(self._path, self._config.class_name):
            return filled_network(self._config, weights)

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel."""
        return self._config.downsample

    @property
    def scaling_factor(self) -> float:
        """What encoded images are multiplied by: 1 / standard deviation of the latents."""
        return float(self._config.scaling_factor)

    @property
    def shift_factor(self) -> float:
        """What is subtracted from encoded images before scaling; 0 for most."""
        return 0.0

    @cached_property
    def digest(self) -> str:
        """sha256 over the float32 weights, scale and shift; reads them."""
        return weights_digest(read_autoencoder(self._path), self._identity)

    def to(self: Self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        """Move the network, now or when it loads.

        Args:
            device: Where it runs.
            dtype: float32 or bfloat16; on a CPU that only imitates bfloat16 arithmetic it is float32 either
                way, which is 2 to 4 times as fast there, and nothing is rounded.

        Returns:
            Itself.

        Raises:
            ValueError: `dtype` is another one; in float16 activations of the published decoders overflow.
        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"autoencoder dtype must be torch.float32 or torch.bfloat16, got {dtype}")
        device = torch.device(device)
        dtype = dtype if device.type != "cpu" or _multiplies_bfloat16() else torch.float32
        if "_network" in self.__dict__ and (device, dtype) != (self._device, self._dtype):
            if self._dtype == torch.float32:
                _placed(self._network, device, dtype)
            else:
                del self._network  # rounded weights cannot be turned back
        self._device, self._dtype = device, dtype
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Encode images as (encoder's output - shift) * scale.

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
            pixels = self._prepared(batch.to(torch.float32) / 127.5 - 1)
            encoded = self._encoded(pixels, batch).float()
            return (encoded - self.shift_factor) * self.scaling_factor  # [b, C, h, w]

        height, width = images.shape[2:]
        empty = torch.empty(0, self.latent_channels, height // step, width // step)
        rows = self._rows(height, width)
        latents = [batch.to(images.device) for batch in self._in_batches(encode_batch, images, rows)]
        return torch.cat([empty.to(images.device), *latents])

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, clamp to the range of pixels and round as `save_image` does: floor(255 x + 1/2).

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
        """Decode as `decode`, and give uint8 `[b, 3, P, P]` on the network's device, batch after batch.

        Raises:
            ValueError: `latents` has another shape than `[B, C, h, w]`.
        """
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(f"latents must be [B, {self.latent_channels}, h, w], got {list(latents.shape)}")

        def decode_batch(batch: Tensor) -> Tensor:
            pixels = self._decoded(batch.float() / self.scaling_factor + self.shift_factor).float()
            return pixels.mul(0.5).add(0.5).clamp(0, 1).mul(255).add(0.5).to(torch.uint8)

        height, width = (side * self.downsample for side in latents.shape[2:])
        return self._in_batches(decode_batch, latents, self._rows(height, width))

    def _rows(self, height: int, width: int) -> int:
        return CHOICES.get(self._device.type, CHOICES["cpu"]).rows(height * width, self._dtype)

    def _prepared(self, inputs: Tensor) -> Tensor:
        """Bring a batch to the network's dtype and memory format."""
        return inputs.to(self._dtype).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _in_batches(self, apply: Callable[[Tensor], Tensor], inputs: Tensor, rows: int) -> Iterator[Tensor]:
        """Apply to batches of `rows` rows; the last one is padded and its results cut."""
        for batch in torch.split(inputs, rows) if len(inputs) else ():
            padded = torch.cat([batch, batch[-1:].expand(rows - len(batch), -1, -1, -1)])
            yield apply(padded.to(self._device))[: len(batch)]


@cache
def _multiplies_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16 products."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def _placed(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    network = network.to(device, dtype)
    if device.type != "cpu":  # there the layers keep their weights in oneDNN's own layout
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
