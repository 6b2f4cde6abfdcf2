"""KL-regularised autoencoders behind the seam.

Shape letters: b images of a batch, P resolution in pixels, C latent channels, h w latent size.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor

from mgd3_engine.autoencoder import KL_F8, AutoencoderKL, KLConfig
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder_weights import kl_config, load_vae, read_autoencoder
from mgd3_fast.generators.batched_autoencoder import BatchedAutoencoder
from mgd3_fast.generators.hub import fetch_model, is_hub_id, model_folder

DEFAULT_VAE = "stabilityai/sd-vae-ft-mse"
"""The autoencoder that MGD3's authors sample DiT with."""

HUB_LICENCES = {
    DEFAULT_VAE: "MIT",
    "stabilityai/sd-vae-ft-ema": "MIT",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML OpenRAIL-M",
}


class KLAutoencoder(BatchedAutoencoder):
    """A KL-regularised autoencoder (Rombach et al. 2022), deterministic: the posterior's mean is the latent.

    Args:
        source: Diffusers folder (of the autoencoder, or of a pipeline), single weights file, or hub id.

    Raises:
        UserError: `source` is neither an existing path nor of the form of a hub id.
    """

    def __init__(self, source: str | Path) -> None:
        super().__init__(source)
        if not Path(source).exists() and not is_hub_id(self.source):
            raise UserError(
                f"vae must be an existing folder or file, or a hub id owner/name, got {self.source!r}"
            )
        self.licence = HUB_LICENCES.get(self.source, "see its source")

    @cached_property
    def _path(self) -> Path:
        path = Path(self.source)
        if not path.exists():
            return fetch_model(self.source, "vae", option="--vae", licence=self.licence)
        return model_folder(path, "vae") if path.is_dir() else path

    @cached_property
    def _config(self) -> KLConfig:
        # The published ones are known, so that a generator can be described without fetching them.
        return KL_F8 if self.source in HUB_LICENCES else kl_config(self._path)

    def _load(self) -> AutoencoderKL:
        return load_vae(self._path)

    def _weights(self) -> dict[str, Tensor]:
        return read_autoencoder(self._path)

    @property
    def _identity(self) -> str:
        return f"AutoencoderKL {self.scaling_factor!r} {self.shift_factor!r}"

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel."""
        return self._config.downsample

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._config.latent_channels

    @property
    def scaling_factor(self) -> float:
        """What posterior means are multiplied by: 1 / standard deviation of the latents."""
        return float(self._config.scaling_factor)

    @property
    def shift_factor(self) -> float:
        """What is subtracted from posterior means before scaling; 0 for most."""
        return float(self._config.shift_factor or 0.0)

    def _encoded(self, pixels: Tensor) -> Tensor:
        mean: Tensor = self._network.encode(pixels)[0]  # [b, C, h, w]
        return mean

    def _decoded(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self._network.decode(self._prepared(latents))  # [b, 3, P, P]
        return pixels
