"""Diffusers' `AutoencoderKL` behind the seam: loaded on first use, in batches of one fixed shape.

Shape letters: B images, P resolution in pixels, C latent channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable
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

# The float32 decoder of KL-f8 takes 4.3 KB per pixel at its peak: 2.2 GiB on the CPU, 8.6 GiB on a GPU.
_PIXELS_PER_BATCH = {"cpu": 2**19, "cuda": 2**21}
_LARGEST_BATCH = 32


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
        return _moved(network, self._device, self._dtype)

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
                _moved(self._network, device, dtype)
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
        return self._in_batches(encode_batch, images, height * width, empty)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, clamp to the range of pixels and round to whole levels.

        Args:
            latents: float32 `[B, C, h, w]` on any device.

        Returns:
            uint8 `[B, 3, P, P]` on the device of `latents`.

        Raises:
            ValueError: `latents` has another shape.
        """
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(f"latents must be [B, {self.latent_channels}, h, w], got {list(latents.shape)}")

        def decode_batch(batch: Tensor) -> Tensor:
            unscaled = batch.float() / self.scaling_factor + self.shift_factor
            decoded: Tensor = self._network.decode(unscaled.to(self._dtype)).sample
            pixels = decoded.float()  # [b, 3, P, P] in -1..1
            return pixels.mul(0.5).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)

        height, width = (side * self.downsample for side in latents.shape[2:])
        empty = torch.empty(0, 3, height, width, dtype=torch.uint8)
        return self._in_batches(decode_batch, latents, height * width, empty)

    @torch.no_grad()
    def _in_batches(
        self, apply: Callable[[Tensor], Tensor], inputs: Tensor, pixels: int, empty: Tensor
    ) -> Tensor:
        """Apply to batches whose row count depends on image size and device alone; the last one is padded."""
        budget = _PIXELS_PER_BATCH.get(self._device.type, _PIXELS_PER_BATCH["cpu"])
        rows = max(1, min(_LARGEST_BATCH, budget // pixels))
        results = [empty.to(inputs.device)]
        for batch in torch.split(inputs, rows) if len(inputs) else ():
            padded = torch.cat([batch, batch[-1:].expand(rows - len(batch), -1, -1, -1)])  # [rows, ...]
            results.append(apply(padded.to(self._device))[: len(batch)].to(inputs.device))
        return torch.cat(results)


def _moved(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move by torch's own method; that of diffusers warns, of an empty list of layers."""
    return nn.Module.to(network, device, dtype)
