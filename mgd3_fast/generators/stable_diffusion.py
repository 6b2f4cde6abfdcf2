"""Generators of the Stable Diffusion family: text-to-image pipelines whose prompts are class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_engine import NoiseSchedule
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import KLAutoencoder
from mgd3_fast.generators.pipeline_files import SCHEDULER, PipelineFiles
from mgd3_fast.generators.prompted_unet import PromptedUNet
from mgd3_fast.generators.text_generator import TextGenerator
from mgd3_fast.generators.trained_schedule import trained_schedule
from mgd3_fast.generators.unet_weights import unet_settings

PIPELINE_CLASS = "StableDiffusionPipeline"
DEFAULTS = SamplingDefaults(cfg_scale=7.5)
"""The paper states none: guidance is the pipeline's own default in diffusers, the rest as for DiT."""


@dataclass(frozen=True)
class StableDiffusionPreset:
    """A published pipeline: its hub repository and what is known of it without fetching anything."""

    repo_id: str
    licence: str
    latent_size: int
    prediction: str = "epsilon"


STABLE_DIFFUSION_PRESETS: dict[str, StableDiffusionPreset] = {
    "stable-diffusion-1-5": StableDiffusionPreset(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "CreativeML OpenRAIL-M", 64
    ),
}


def stable_diffusion_preset(name: str, vae: str | None = None) -> TextGenerator:
    """Make the generator of a published pipeline; nothing is fetched before it is used.

    Args:
        name: One of `STABLE_DIFFUSION_PRESETS`.
        vae: Another autoencoder than the pipeline's: a path or hub id.

    Returns:
        The generator, still without classes.
    """
    preset = STABLE_DIFFUSION_PRESETS[name]
    return _text_generator(
        PipelineFiles(preset.repo_id, preset.licence),
        name=name,
        latent_size=preset.latent_size,
        latent_channels=4,
        schedule=NoiseSchedule.scaled_linear(),
        prediction=preset.prediction,
        vae=vae,
    )


def stable_diffusion(source: str, licence: str, vae: str | None = None) -> TextGenerator:
    """Make the generator of a pipeline in diffusers' layout; of one on the hub, settings are fetched now.

    Args:
        source: A local folder or a hub id.
        licence: Of the weights.
        vae: Another autoencoder than the pipeline's: a path or hub id.

    Returns:
        The generator, still without classes.

    Raises:
        UserError: A file is missing or damaged, or the engine cannot sample such a network.
    """
    files = PipelineFiles(source, licence)
    unet = unet_settings(files.settings("unet/config.json"), source)
    if not isinstance(unet.get("sample_size"), int):
        raise UserError(f"unet of {source} must state sample_size, a number, got {unet.get('sample_size')!r}")
    schedule, prediction = trained_schedule(files.settings(SCHEDULER), f"{source}/{SCHEDULER}")
    return _text_generator(
        files,
        name=Path(source).resolve().name if Path(source).exists() else source.split("/")[-1],
        latent_size=unet["sample_size"],
        latent_channels=unet.get("in_channels", 4),
        schedule=schedule,
        prediction=prediction,
        vae=vae,
    )


def _text_generator(
    files: PipelineFiles,
    *,
    name: str,
    latent_size: int,
    latent_channels: int,
    schedule: NoiseSchedule,
    prediction: str,
    vae: str | None,
) -> TextGenerator:
    autoencoder = KLAutoencoder(vae or files.source)
    if autoencoder.latent_channels != latent_channels:
        raise UserError(
            f"vae must have {latent_channels} latent channels for {name}, got {autoencoder.latent_channels}"
        )
    return TextGenerator(
        name=name,
        source=files.source,
        resolution=latent_size * autoencoder.downsample,
        latent_shape=(latent_channels, latent_size, latent_size),
        num_classes=0,
        null_class=0,
        cfg_channels=None,
        schedule=schedule,
        prediction=prediction,
        defaults=DEFAULTS,
        licence=files.licence,
        autoencoder=autoencoder,
        network=PromptedUNet(files, schedule, prediction),
    )
