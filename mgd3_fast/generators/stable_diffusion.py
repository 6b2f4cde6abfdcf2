"""Generators of the Stable Diffusion family: text-to-image pipelines whose prompts are class names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mgd3_engine import Denoiser, NoiseSchedule
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.datasets import Dataset
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import KLAutoencoder
from mgd3_fast.generators.base import Generator, checked_channels
from mgd3_fast.generators.hub import SCHEDULER, ModelFiles
from mgd3_fast.generators.prompted_unet import PromptedUNet
from mgd3_fast.generators.prompts import ClassPrompts, class_prompts
from mgd3_fast.generators.trained_schedule import Training, training_of
from mgd3_fast.generators.unet import latent_size, unet_settings

PIPELINE_CLASS = "StableDiffusionPipeline"
DEFAULTS = SamplingDefaults(cfg_scale=7.5)
"""The paper states none: guidance is the pipeline's own default in diffusers, the rest as for DiT."""
PUBLISHED: dict[str, Any] = {
    "sampler": "ddpm",
    "steps": 50,
    "spacing": "leading",
    "steps_offset": 1,
    "cfg_scale": 8.0,
    "mode_scale": 0.1,
    "t_stop": 24,  # of timesteps 1, 21, .. 981 those above 500
    "synonyms": "all",
    "posterior": "sample",
    "image_size": 256,
}
"""Options of `distill` as MGD3's text-to-image script sets them, with Stable Diffusion 1.5 at 512 px."""


@dataclass(frozen=True)
class StableDiffusionPreset:
    """A published pipeline: its hub repository and what is known of it without fetching anything."""

    repo_id: str
    licence: str
    latent_size: int


STABLE_DIFFUSION_PRESETS: dict[str, StableDiffusionPreset] = {
    "stable-diffusion-1-5": StableDiffusionPreset(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "CreativeML OpenRAIL-M", 64
    ),
}


@dataclass(frozen=True, kw_only=True)
class TextGenerator(Generator):
    """A generator without classes of its own, until `for_prompts` gives it those of a run."""

    network: PromptedUNet

    @property
    def conditioning(self) -> str:
        """What it is conditioned on, for messages."""
        return "any classes, by prompt"

    def denoiser(self, device: torch.device | str, dtype: torch.dtype) -> Denoiser:
        """Load the network of the run's classes, see `Generator.denoiser`.

        Raises:
            UserError: As there, or `for_prompts` was not called.
        """
        if self.prompts is None:
            raise UserError(
                f"generator must have classes of its own here, got {self.name}, which is conditioned on text"
                " and is for distill, encode, discover, metrics and report"
            )
        return super().denoiser(device, dtype)

    def for_prompts(self, prompts: ClassPrompts) -> TextGenerator:
        """Return the generator of these classes, the negative prompt being its null class."""
        N = len(prompts.class_names)
        return replace(
            self,
            prompts=prompts,
            class_names=prompts.class_names,
            num_classes=N,
            null_class=N,
            network=self.network.for_prompts(prompts),
        )


def for_run(
    generator: Generator,
    dataset: Dataset,
    *,
    prompts: Path | str | None = None,
    prompt_template: str | None = None,
    negative_prompt: str | None = None,
    synonyms: str | None = None,
) -> Generator:
    """Make a generator ready for the classes of a run: one that is conditioned on text gets their prompts.

    Args:
        generator: Any.
        dataset: Its opened classes are the run's.
        prompts: See `class_prompts`, and so the others.
        prompt_template: What goes around a class's name.
        negative_prompt: What stands for no class.
        synonyms: "first" or "all" of those of an ImageNet class.

    Returns:
        The generator.

    Raises:
        UserError: One of the options is given and the generator takes no text, or as `class_prompts`.
    """
    if isinstance(generator, TextGenerator):
        file = None if prompts is None else Path(prompts)
        return generator.for_prompts(
            class_prompts(
                dataset, file=file, template=prompt_template, negative=negative_prompt, synonyms=synonyms
            )
        )
    options = {
        "prompts": prompts,
        "prompt_template": prompt_template,
        "negative_prompt": negative_prompt,
        "synonyms": synonyms,
    }
    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"{name} must be left out with generator {generator.name}, which takes no text, got"
                f" {str(value)!r}"
            )
    return generator


def stable_diffusion_preset(name: str, vae: str | None = None) -> TextGenerator:
    """Make the generator, still without classes, of one of `STABLE_DIFFUSION_PRESETS`, and fetch nothing yet.

    `vae` is another autoencoder than the pipeline's: a path or hub id.
    """
    preset = STABLE_DIFFUSION_PRESETS[name]
    files, training = ModelFiles(preset.repo_id, preset.licence), Training(NoiseSchedule.scaled_linear())
    return _text_generator(files, name, (4, preset.latent_size), training, vae)


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
    files = ModelFiles(source, licence)
    unet = unet_settings(files.settings("unet/config.json"), source)
    training = training_of(files)
    if training is None:
        raise UserError(f"{source} must hold {SCHEDULER}, as diffusers' pipelines do, got none")
    name = Path(source).resolve().name if Path(source).exists() else source.split("/")[-1]
    return _text_generator(files, name, latent_size(unet, source), training, vae)


def _text_generator(
    files: ModelFiles, name: str, latent: tuple[int, int], training: Training, vae: str | None
) -> TextGenerator:
    autoencoder, (channels, side) = KLAutoencoder(vae or files.source), latent
    checked_channels(autoencoder, channels, name)
    return TextGenerator(
        name=name,
        source=files.source,
        resolution=side * autoencoder.downsample,
        latent_shape=(channels, side, side),
        num_classes=0,
        null_class=0,
        cfg_channels=None,
        schedule=training.schedule,
        prediction=training.prediction,
        defaults=DEFAULTS,
        licence=files.licence,
        autoencoder=autoencoder,
        network=PromptedUNet(files, training),
        notes=training.notes,
        presets={"paper": PUBLISHED},
    )
