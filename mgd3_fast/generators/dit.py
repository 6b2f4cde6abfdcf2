"""Generators of the DiT family: the published presets, checkpoint files and diffusers folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mgd3_engine import NoiseSchedule
from mgd3_engine.dit import DiT, DiTCheckpoint, DiTConfig, dit_config, load_dit, read_dit
from mgd3_engine.files.digest import weights_digest
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.datasets.imagenet import imagenet_classes
from mgd3_fast.errors import UserError, listed
from mgd3_fast.generators.autoencoder import DEFAULT_VAE, KLAutoencoder
from mgd3_fast.generators.base import Generator, Network, checked_channels
from mgd3_fast.generators.batched_autoencoder import Autoencoder
from mgd3_fast.generators.classes import names_by_id
from mgd3_fast.generators.hub import MODEL_INDEX, SCHEDULER, ModelFiles
from mgd3_fast.generators.trained_schedule import Training, training_of

DIT_LICENCE = "CC-BY-NC-4.0"
UNKNOWN_LICENCE = "not stated; DiT's published weights are CC-BY-NC-4.0"
DIT_CFG_CHANNELS = 3
"""The authors guide the first three of four latent channels."""
DIT_TRAINING = Training(NoiseSchedule.linear(1000, 1e-4, 2e-2))
"""The authors' training."""
FAST_STEPS = 12
FAST_CFG_INTERVAL = (100, 700)
FAST_PULL = 2.5
"""Sigma summed over the guided ones of 50 steps over that of 12: 2.67 without a stop, 2.43 from half on."""


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
        try:
            return self._load()
        except ValueError as error:
            raise UserError(str(error)) from None

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
    training: Training = DIT_TRAINING,
    cfg_channels: int | None = DIT_CFG_CHANNELS,
    notes: tuple[str, ...] = (),
) -> Generator:
    """Make the generator of a DiT of some architecture and an autoencoder; see `Generator` for the rest.

    Raises:
        UserError: The autoencoder's latents have another number of channels than the network.
    """
    checked_channels(autoencoder, config.in_channels, name)
    return Generator(
        name=name,
        source=source,
        resolution=config.input_size * autoencoder.downsample,
        latent_shape=(config.in_channels, config.input_size, config.input_size),
        num_classes=config.num_classes,
        null_class=config.null_class if config.num_labels > config.num_classes else None,
        cfg_channels=cfg_channels,
        schedule=training.schedule,
        prediction=training.prediction,
        learned_variance=config.learn_sigma,
        defaults=defaults if defaults is not None else SamplingDefaults(),
        class_names=class_names,
        licence=licence,
        autoencoder=autoencoder,
        network=network,
        notes=(*training.notes, *notes),
        presets={"paper": asdict(SamplingDefaults()), **_fast(defaults or SamplingDefaults(), training)},
    )


def _fast(defaults: SamplingDefaults, training: Training) -> dict[str, dict[str, Any]]:
    """`--preset fast`: see docs/fast.md. Mode guidance stops where the defaults' does and pulls as far."""
    schedule = training.schedule
    if (defaults.sampler, defaults.steps, len(schedule)) != ("ddpm", 50, 1000) or defaults.cfg_scale == 1.0:
        return {}
    stop = schedule.stop_index(defaults.t_stop, of=defaults.steps, steps=FAST_STEPS)
    return {
        "fast": {
            "sampler": "ddpm",
            "steps": FAST_STEPS,
            "cfg_interval": FAST_CFG_INTERVAL,
            "mode_scale": round(FAST_PULL * defaults.mode_scale, 6),
            "t_stop": min(stop, FAST_STEPS - 2),
        }
    }


def dit_preset(name: str, vae: str | None = None) -> Generator:
    """Make the generator of one of `DIT_PRESETS`; nothing is fetched before it is used.

    `vae` is another autoencoder than the authors': a path or hub id.
    """
    preset = DIT_PRESETS[name]
    files = ModelFiles(preset.repo_id, DIT_LICENCE)
    return dit_generator(
        DiTNetwork(lambda: load_dit(files.network("transformer"), preset.config)),
        preset.config,
        KLAutoencoder(vae or DEFAULT_VAE),
        name=name,
        source=preset.repo_id,
        licence=DIT_LICENCE,
        class_names=imagenet_classes("imagenet1k"),
    )


def dit_of(source: str, vae: str | None = None, heads: int | None = None) -> Generator:
    """Make the generator of a DiT's weights; those of a repository are fetched now.

    Args:
        source: A path, see `mgd3_engine.dit.read_dit` for the layouts, or the hub id of a repository in
            diffusers' layout.
        vae: Autoencoder, a path or hub id; None is the pipeline's own `vae`, else the authors'.
        heads: Attention heads of the network, where nothing beside it tells them.

    Returns:
        The generator, with the schedule, prediction and class names of the pipeline, where there is one.

    Raises:
        FileNotFoundError, ValueError: The weights are missing, cannot be fetched, are damaged or not a DiT's.
    """
    path = Path(source)
    if path.exists():
        files, weights, name = ModelFiles(_pipeline_of(path), UNKNOWN_LICENCE), path, path.resolve().stem
    else:
        files = ModelFiles(source, f"see huggingface.co/{source}")
        weights, name = files.network("transformer"), source.split("/")[-1]
    checkpoint, index = read_dit(weights, num_heads=heads), files.find_settings(MODEL_INDEX) or {}
    has_vae = "vae" in index or (Path(files.source) / "vae/config.json").is_file()
    names, note = _pipeline_names(index, files.source, checkpoint.config.num_classes)
    return dit_generator(
        DiTNetwork(lambda: _network(checkpoint)),
        checkpoint.config,
        KLAutoencoder(vae or (files.source if has_vae else DEFAULT_VAE)),
        name=name,
        source=source,
        licence=files.licence,
        class_names=names,
        training=training_of(files) or DIT_TRAINING,
        notes=tuple(filter(None, (note, _unused_note(name, checkpoint.unused)))),
    )


def _network(checkpoint: DiTCheckpoint) -> DiT:
    if checkpoint.heads_known:
        return checkpoint.network()
    raise UserError(
        f"{checkpoint.path} does not say how many attention heads its DiT has, and no published DiT has its"
        f" width {checkpoint.config.hidden_size}: give --generator-heads N, or write"
        ' {"num_heads": N} into a config.json beside it'
    )


def _pipeline_of(path: Path) -> str:
    """Return the folder of the pipeline that weights belong to; their own path where there is none."""
    folder = path if path.is_dir() else path.parent
    root = folder.parent if folder.name == "transformer" else folder
    return str(root if any((root / name).is_file() for name in (MODEL_INDEX, SCHEDULER)) else path)


def _pipeline_names(
    index: Mapping[str, Any], source: str, num_classes: int
) -> tuple[tuple[str, ...] | None, str | None]:
    """Read the names of a pipeline's `id2label`, and what is to be said where they do not fit."""
    if not index.get("id2label"):
        return None, None
    place = f"id2label of {source}/{MODEL_INDEX}"
    try:
        names = names_by_id(index["id2label"], place)
    except UserError as error:
        return None, f"{error}: it is not used"
    if len(names) == num_classes:
        return names, None
    return None, f"{place} names {len(names)} classes and the network has {num_classes}: it is not used"


def _unused_note(name: str, unused: tuple[str, ...]) -> str | None:
    if not unused:
        return None
    return f"{name}: {len(unused)} tensors that a DiT does not use were left aside ({listed(unused)})"
