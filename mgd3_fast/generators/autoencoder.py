"""The two kinds of autoencoder behind the seam: KL-regularised and vector-quantised.

Shape letters: b images of a batch, P resolution in pixels, C latent channels, h w latent size, N latent
positions of a batch, V codes of the codebook.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from mgd3_engine.autoencoder import KL_F8, KLConfig, VQConfig
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder_weights import (
    PIPELINE_FOLDERS,
    is_vq,
    kl_config,
    vq_config,
    vq_folder,
)
from mgd3_fast.generators.batched_autoencoder import Autoencoder
from mgd3_fast.generators.hub import ModelFiles, is_hub_id

DEFAULT_VAE = "stabilityai/sd-vae-ft-mse"
"""The autoencoder that MGD3's authors sample DiT with."""

HUB_LICENCES = {
    DEFAULT_VAE: "MIT",
    "stabilityai/sd-vae-ft-ema": "MIT",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML OpenRAIL-M",
}

_POSITIONS = 4096  # compared with the codebook at a time: 128 MiB at 8,192 codes


class KLAutoencoder(Autoencoder):
    """A KL-regularised autoencoder (Rombach et al. 2022): the posterior's mean, or a sample, is the latent.

    A sample is mean + exp(log_variance / 2) noise (Kingma & Welling 2014, Eq. 10), with noise that depends on
    the image's pixels alone: not on its name, its class, the rest of the call or the seed of a run.

    Args:
        source: Diffusers folder (of the autoencoder, or of a pipeline), single weights file, or hub id.
        posterior: "mean" or "sample".

    Raises:
        UserError: `source` is neither an existing path nor of the form of a hub id.
    """

    def __init__(self, source: str | Path, posterior: str = "mean") -> None:
        super().__init__(source)
        if not Path(source).exists() and not is_hub_id(self.source):
            raise UserError(
                f"vae must be an existing folder or file, or a hub id owner/name, got {self.source!r}"
            )
        self.posterior = posterior
        self.licence = HUB_LICENCES.get(self.source, "see its source")

    @cached_property
    def _path(self) -> Path:
        if Path(self.source).is_file():
            return Path(self.source)
        return ModelFiles(self.source, self.licence, "--vae").network("vae")

    @cached_property
    def _config(self) -> KLConfig:
        # The published ones are known, so that a generator can be described without fetching them.
        return KL_F8 if self.source in HUB_LICENCES else kl_config(self._path)

    @property
    def _identity(self) -> str:
        sampled = " sampled" if self.posterior == "sample" else ""
        return f"AutoencoderKL {self.scaling_factor!r} {self.shift_factor!r}{sampled}"

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._config.latent_channels

    @property
    def trained_resolution(self) -> int | None:
        """Side in pixels of the images that it learned from, where that is stated."""
        side = self._config.sample_size
        return side if isinstance(side, int) else None

    @property
    def shift_factor(self) -> float:
        """What is subtracted from posterior means before scaling; 0 for most."""
        return float(self._config.shift_factor or 0.0)

    def _encoded(self, pixels: Tensor, images: Tensor) -> Tensor:
        moments: tuple[Tensor, Tensor] = self._network.encode(pixels)  # [b, C, h, w] each
        mean, log_variance = moments
        if self.posterior == "mean":
            return mean
        noise = torch.stack([_noise_of(image, mean.shape[1:]) for image in images.cpu()])
        return mean.float() + (log_variance.float() / 2).exp() * noise.to(mean.device)

    def _decoded(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self._network.decode(self._prepared(latents))  # [b, 3, P, P]
        return pixels


class VQAutoencoder(Autoencoder):
    """A vector-quantised autoencoder (van den Oord et al. 2017) as latent diffusion uses one.

    The latent is what the encoder gives; the decoder takes the nearest code of each position (Rombach et al.
    2022, section 3.1: the quantisation layer is absorbed by the decoder).

    Args:
        source: Diffusers folder (of the autoencoder, or of a pipeline), or single weights file in the
            original names.

    Raises:
        UserError: There is nothing at `source`.
    """

    def __init__(self, source: str | Path) -> None:
        super().__init__(source)
        if not Path(source).exists():
            raise UserError(f"vae must be an existing folder or file, got {self.source!r}")
        self.licence = "see its source"

    @cached_property
    def _path(self) -> Path:
        path = Path(self.source)
        folder = vq_folder(path) if path.is_dir() else path
        if folder is None:
            names = ", ".join(f"{name}/config.json" for name in PIPELINE_FOLDERS)
            raise UserError(f"{path} must hold {names} or config.json, got none")
        return folder

    @cached_property
    def _config(self) -> VQConfig:
        return vq_config(self._path)

    def load_network(self) -> nn.Module:
        """Load the network, see `Autoencoder.load_network`, and keep its codebook."""
        network = super().load_network()
        # Kept apart from the network, which may be rounded: which code is nearest is decided in float32.
        self._codebook = network.get_parameter("quantize.embedding.weight").detach()  # [V, C]
        return network

    @property
    def _identity(self) -> str:
        return f"VQModel {self.scaling_factor!r}"

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._config.code_channels

    def _encoded(self, pixels: Tensor, images: Tensor) -> Tensor:
        encoded: Tensor = self._network.encode(pixels)  # [b, C, h, w]
        return encoded

    def _decoded(self, latents: Tensor) -> Tensor:
        network = self._network  # loads the codebook too
        codes = nearest_codes(latents, self._codebook.to(latents.device))
        pixels: Tensor = network.decode(self._prepared(codes))  # [b, 3, P, P]
        return pixels


def open_autoencoder(source: str | Path) -> Autoencoder:
    """Open a vector-quantised or KL-regularised autoencoder, whichever it is.

    Args:
        source: Diffusers folder (of the autoencoder, or of a pipeline), single weights file, or hub id, which
            is taken for a KL-regularised one's.

    Returns:
        The autoencoder; its weights load on first use.

    Raises:
        UserError: There is none at `source`.
        ValueError: The files are damaged.
    """
    path = Path(source)
    return VQAutoencoder(path) if path.exists() and is_vq(path) else KLAutoencoder(source)


def nearest_codes(latents: Tensor, codebook: Tensor) -> Tensor:
    """Replace each position by the code that is nearest to it.

    q(z) = e_k, k = argmin_j |z - e_j| (van den Oord et al. 2017, Eq. 1 and 2), from differences and not from
    products, whose rounding, to 10 bits on some GPUs, would choose other codes.

    Args:
        latents: float32 `[b, C, h, w]`.
        codebook: float32 `[V, C]` on the same device.

    Returns:
        float32 `[b, C, h, w]`.
    """
    b, C, h, w = latents.shape
    positions = latents.permute(0, 2, 3, 1).reshape(-1, C)  # [N, C]
    nearest = [_nearest(part, codebook) for part in torch.split(positions, _POSITIONS)]
    return codebook[torch.cat(nearest)].view(b, h, w, C).permute(0, 3, 1, 2).contiguous()


def _nearest(positions: Tensor, codebook: Tensor) -> Tensor:
    """Return int64 `[N]`: the index of the nearest code, the first of equally near ones."""
    squares = positions.new_zeros(len(positions), len(codebook))  # [N, V]
    for position, code in zip(positions.unbind(1), codebook.unbind(1), strict=True):
        difference = position[:, None] - code
        squares.addcmul_(difference, difference)
    return squares.argmin(dim=1)


def _noise_of(image: Tensor, shape: torch.Size) -> Tensor:
    """Draw the unit normal noise `[C, h, w]` of an image uint8 `[3, P, P]`."""
    digest = hashlib.sha256(image.contiguous().numpy().data).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)
