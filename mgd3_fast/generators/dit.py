"""Generators of the DiT family: the published presets, checkpoint files and diffusers folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from mgd3_engine import NoiseSchedule
from mgd3_engine.dit import DiT, DiTConfig, dit_config, load_dit
from mgd3_engine.files.digest import weights_digest
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.datasets.imagenet import imagenet_classes
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import DEFAULT_VAE, KLAutoencoder
from mgd3_fast.generators.base import Autoencoder, Generator
from mgd3_fast.generators.hub import fetch_model
from mgd3_fast.generators.network import Network

DIT_LICENCE = "CC-BY-NC-4.0"
UNKNOWN_LICENCE = "not stated; DiT's published weights are CC-BY-NC-4.0"
DIT_CFG_CHANNELS = 3
"""The authors guide the first three of four latent channels."""


@dataclass(frozen=True)
class DiTPreset:
    """A published checkpoint: its hub repository, which holds diffusers' layout, and its architecture."""

    repo_id: str
    image_size: int
    model: str = "DiT-XL/2"

    @property
    def config(self) -> DiTConfig:
        """The architecture, known without fetching anything."""
        return dit_config(self.model, image_size=self.image_size)


DIT_PRESETS: dict[str, DiTPreset] = {
    "dit-xl-2-256": DiTPreset("facebook/DiT-XL-2-256", 256),
    "dit-xl-2-512": DiTPreset("facebook/DiT-XL-2-512", 512),
}


class DiTNetwork(Network):
    """A DiT.

    Args:
        load: Loads the float32 network on the CPU.
    """

    def __init__(self, load: Callable[[], DiT]) -> None:
        self._load = load

    @cached_property
    def network(self) -> DiT:
        """The network as its file holds it."""
        return self._load()

    def digest(self) -> str:
        """sha256 of the weights and of what else decides the output."""
        config = self.network.config
        settings = f"DiT heads {config.num_heads} frequency shift {config.frequency_shift}"
        return weights_digest(self.network.state_dict(), settings)

    def _place(self, device: torch.device, dtype: torch.dtype) -> DiT:
        weights = {name: tensor.to(device, dtype) for name, tensor in self.network.state_dict().items()}
        with torch.device("meta"):
            placed = DiT(self.network.config)
        placed.load_state_dict(weights, assign=True)
        return placed.eval().requires_grad_(False)


def dit_generator(
    network: DiTNetwork,
    config: DiTConfig,
    autoencoder: Autoencoder,
    *,
    name: str,
    source: str,
    licence: str,
    class_names: tuple[str, ...] | None = None,
    defaults: SamplingDefaults | None = None,
    schedule: NoiseSchedule | None = None,
    cfg_channels: int | None = DIT_CFG_CHANNELS,
) -> Generator:
    """Make the generator of a DiT and an autoencoder.

    Args:
        network: The network, loaded on first use.
        config: Its architecture.
        autoencoder: What it was trained on.
        name: Short name for reports.
        source: Hub id or path of the weights.
        licence: Of the weights.
        class_names: In the order of the class ids, where known.
        defaults: Sampling settings; None is the paper's.
        schedule: Noise schedule of the training; None is the paper's, linear from 1e-4 to 2e-2.
        cfg_channels: Channels that classifier-free guidance acts on; None is all.

    Returns:
        The generator.

    Raises:
        UserError: The autoencoder's latents have another number of channels than the network.
    """
    if autoencoder.latent_channels != config.in_channels:
        raise UserError(
            f"vae must have {config.in_channels} latent channels for {name},"
            f" got {autoencoder.latent_channels}"
        )
    return Generator(
        name=name,
        source=source,
        resolution=config.input_size * autoencoder.downsample,
        latent_shape=(config.in_channels, config.input_size, config.input_size),
        num_classes=config.num_classes,
        null_class=config.null_class if config.num_labels > config.num_classes else None,
        cfg_channels=cfg_channels,
        schedule=schedule if schedule is not None else NoiseSchedule.linear(1000, 1e-4, 2e-2),
        prediction="epsilon",
        learned_variance=config.learn_sigma,
        defaults=defaults if defaults is not None else SamplingDefaults(),
        class_names=class_names,
        licence=licence,
        autoencoder=autoencoder,
        network=network,
    )


def dit_preset(name: str, vae: str | None = None) -> Generator:
    """Make the generator of a published checkpoint; nothing is fetched before it is used.

    Args:
        name: One of `DIT_PRESETS`.
        vae: Another autoencoder than the authors': a path or hub id.

    Returns:
        The generator, sampled with the paper's settings.
    """
    preset = DIT_PRESETS[name]

    def load() -> DiT:
        folder = fetch_model(preset.repo_id, "transformer", option="--generator", licence=DIT_LICENCE)
        return load_dit(folder, preset.config)

    return dit_generator(
        DiTNetwork(load),
        preset.config,
        KLAutoencoder(vae or DEFAULT_VAE),
        name=name,
        source=preset.repo_id,
        licence=DIT_LICENCE,
        class_names=imagenet_classes("imagenet1k"),
    )


def dit_from_path(path: Path, vae: str | None = None) -> Generator:
    """Make the generator of a checkpoint file (`.pt`, `.safetensors`) or diffusers folder.

    Args:
        path: Where the weights lie; see `mgd3_engine.dit.load_dit` for the layouts.
        vae: Autoencoder, a path or hub id; None is the folder's own `vae`, else the authors'.

    Returns:
        The generator, sampled with the paper's settings.

    Raises:
        FileNotFoundError, ValueError: The weights are missing, damaged or not of a DiT.
    """
    dit = load_dit(path)
    own_vae = path / "vae"
    autoencoder = KLAutoencoder(vae or (own_vae if (own_vae / "config.json").is_file() else DEFAULT_VAE))
    return dit_generator(
        DiTNetwork(lambda: dit),
        dit.config,
        autoencoder,
        name=path.resolve().stem,
        source=str(path),
        licence=UNKNOWN_LICENCE,
    )


def dit_from_hub(repo_id: str, vae: str | None = None) -> Generator:
    """Make the generator of a hub repository in diffusers' layout; its DiT is fetched now.

    Args:
        repo_id: owner/name; that of a preset gives the preset.
        vae: Autoencoder, a path or hub id; None is the authors'.

    Returns:
        The generator.

    Raises:
        UserError: The repository cannot be fetched or holds no DiT.
    """
    for name, preset in DIT_PRESETS.items():
        if preset.repo_id == repo_id:
            return dit_preset(name, vae)
    licence = f"see huggingface.co/{repo_id}"
    dit = load_dit(fetch_model(repo_id, "transformer", option="--generator", licence=licence))
    return dit_generator(
        DiTNetwork(lambda: dit),
        dit.config,
        KLAutoencoder(vae or DEFAULT_VAE),
        name=repo_id.split("/")[-1],
        source=repo_id,
        licence=licence,
    )
