"""Vector-quantised autoencoders behind the seam: latents are the encoder's own, and decoding quantises them.

Shape letters: b images of a batch, P resolution in pixels, C latent channels, h w latent size, N latent
positions of a batch, V codes of the codebook.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mgd3_engine.autoencoder import VQConfig, VQModel
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import KLAutoencoder
from mgd3_fast.generators.autoencoder_weights import (
    PIPELINE_FOLDERS,
    is_vq,
    load_autoencoder,
    read_autoencoder,
    vq_config,
    vq_folder,
)
from mgd3_fast.generators.batched_autoencoder import BatchedAutoencoder

_POSITIONS = 4096  # compared with the codebook at a time: 128 MiB at 8,192 codes


class VQAutoencoder(BatchedAutoencoder):
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

    def _load(self) -> VQModel:
        network = load_autoencoder(self._path, self._config)
        assert isinstance(network, VQModel)
        # Kept apart from the network, which may be rounded: which code is nearest is decided in float32.
        self._codebook = network.quantize.embedding.weight.detach()  # [V, C]
        return network

    def _weights(self) -> Mapping[str, Tensor]:
        return read_autoencoder(self._path)

    @property
    def _identity(self) -> str:
        return f"VQModel {self.scaling_factor!r}"

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel."""
        return self._config.downsample

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._config.code_channels

    @property
    def scaling_factor(self) -> float:
        """What the encoder's output is multiplied by; 1 for the published ones."""
        return float(self._config.scaling_factor)

    def _encoded(self, pixels: Tensor) -> Tensor:
        encoded: Tensor = self._network.encode(pixels)  # [b, C, h, w]
        return encoded

    def _decoded(self, latents: Tensor) -> Tensor:
        network = self._network  # loads the codebook too
        codes = nearest_codes(latents, self._codebook.to(latents.device))
        pixels: Tensor = network.decode(self._prepared(codes))  # [b, 3, P, P]
        return pixels


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


def open_autoencoder(source: str | Path) -> BatchedAutoencoder:
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
