"""Diffusers' `AutoencoderKL` behind the seam: loaded on first use, in batches of one fixed shape.

Shape letters: B images, P resolution in pixels, C latent channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mgd3_fast.errors import UserError
from mgd3_fast.generators.digest import weights_digest
from mgd3_fast.generators.hub import fetch_model, is_hub_id, model_folder
from mgd3_fast.generators.vae_weights import KL_F8, load_vae, vae_config

DEFAULT_VAE = "stabilityai/sd-vae-ft-mse"
"""The autoencoder that MGD3's authors sample DiT with."""

HUB_LICENCES = {DEFAULT_VAE: "MIT", "stabilityai/sd-vae-ft-ema": "MIT"}

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


class KLAutoencoder:
    """A KL-regularised autoencoder (Rombach et al. 2022), deterministic: the posterior's mean is the latent.

    A call is split into batches of one shape per resolution, the last one padded, so the bytes of an image
    or latent do not depend on which others are in the call.

    Args:
        source: Diffusers folder (of the autoencoder, or of a pipeline), single weights file, or hub id.

    Raises:
        UserError: `source` is neither an existing path nor of the form of a hub id.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        if not Path(source).exists() and not is_hub_id(self.source):
            raise UserError(
                f"vae must be an existing folder or file, or a hub id owner/name, got {self.source!r}"
            )
        self.licence = HUB_LICENCES.get(self.source, "see its source")
        self._device, self._dtype = torch.device("cpu"), torch.float32

    @cached_property
    def _path(self) -> Path:
        path = Path(self.source)
        if not path.exists():
            return fetch_model(self.source, "vae", option="--vae", licence=self.licence)
        return model_folder(path, "vae") if path.is_dir() else path

    @cached_property
    def _settings(self) -> dict[str, Any]:
        # The published ones are known, so that a generator can be described without fetching them.
        return KL_F8 if self.source in HUB_LICENCES else vae_config(self._path)

    @cached_property
    def _network(self) -> Any:
        network = load_vae(self._path)
        self._loaded_digest = weights_digest(
            network.state_dict(), f"AutoencoderKL {self.scaling_factor!r} {self.shift_factor!r}"
        )
        return _placed(network, self._device, self._dtype)

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel."""
        return int(2 ** (len(self._settings["block_out_channels"]) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return int(self._settings.get("latent_channels", 4))

    @property
    def scaling_factor(self) -> float:
        """What posterior means are multiplied by: 1 / standard deviation of the latents."""
        return float(self._settings.get("scaling_factor") or KL_F8["scaling_factor"])

    @property
    def shift_factor(self) -> float:
        """What is subtracted from posterior means before scaling; 0 for most."""
        return float(self._settings.get("shift_factor") or 0.0)

    @property
    def digest(self) -> str:
        """sha256 over the float32 weights, scale and shift; loads them."""
        _ = self._network
        return self._loaded_digest

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> KLAutoencoder:
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
        """Encode images as (posterior mean - shift) * scale, without sampling and without a random flip.

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
            mean: Tensor = self._network.encode(pixels.to(self._dtype)).latent_dist.mean
            return (mean.float() - self.shift_factor) * self.scaling_factor  # [b, C, h, w]

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
            unscaled = (batch.float() / self.scaling_factor + self.shift_factor).to(self._dtype)
            if self._dtype in _choice(DECODE_CHOICES, self._device).channels_last:
                unscaled = unscaled.contiguous(memory_format=torch.channels_last)
            pixels: Tensor = self._network.decode(unscaled).sample.float()  # [b, 3, P, P] in -1..1
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
