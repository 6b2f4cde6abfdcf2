"""Sizes, rates and steps that nobody has given: from images, pixels and device, by one table.

docs/training.md has the table with its reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mgd3_fast.config.train import CUSTOM_MODEL, TrainConfig, fields_of
from mgd3_fast.datasets import Dataset, ImageStream
from mgd3_fast.datasets.sides import median_side, some_loads

_LOWEST_RESOLUTION = 32
_FINE_TUNING_EPOCHS = 8.0  # as MGD3 fine-tunes DiT-XL/2
_LARGEST_SMALL_LATENT = 16
_SMALL_LATENT_GUIDANCE = {"cfg_scale": 2.0, "mode_scale": 0.2, "t_stop": 0}
_LARGEST_EMA = 0.9999
_DIT_SIZES = {"hidden", "depth", "heads", "patch"}
_FOLLOWING = {"steps", "vae_steps", "warmup", "ema", "vae_ema", "heads", "patch"}
_ARCHITECTURE = {*_DIT_SIZES, "vae_channels", "vae_layers", "vae_attention"}


@dataclass(frozen=True)
class Preset:
    """A column of the table.

    Args:
        resolution: Largest side that is chosen, in pixels.
        halved_thrice: The side from which on the autoencoder halves images three times, and not twice.
        vae_channels: Channels of its blocks, of which smaller images have fewer.
        head_width: Channels of an attention head.
        passes: How often the DiT is to see each image.
        steps: Its fewest and most steps.
        vae_passes: Likewise of the autoencoder.
        vae_steps: Likewise.
        warmup: Most steps that the learning rate rises over, at most a tenth of all.
        fixed: Options by name that depend on neither images nor pixels.
    """

    resolution: int
    halved_thrice: int
    vae_channels: tuple[int, ...]
    head_width: int
    passes: int
    steps: tuple[int, int]
    vae_passes: int
    vae_steps: tuple[int, int]
    warmup: int
    fixed: Mapping[str, Any]


SMALL = Preset(
    resolution=64,
    halved_thrice=64,
    vae_channels=(16, 32, 64, 64),
    head_width=32,
    passes=100,
    steps=(2500, 8000),
    vae_passes=10,
    vae_steps=(600, 2400),
    warmup=50,
    fixed={
        "hidden": 160,
        "depth": 4,
        "batch_size": 64,
        "lr": 1e-3,
        "schedule": "cosine",
        "clip_grad": 1.0,
        "vae_layers": 1,
        "vae_attention": "none",
        "kl_weight": 1e-3,
        "vae_batch_size": 16,
        "vae_lr": 1e-3,
    },
)
LARGE = Preset(
    resolution=256,
    halved_thrice=128,
    vae_channels=(128, 256, 512, 512),
    head_width=64,
    passes=200,
    steps=(5000, 100_000),
    vae_passes=50,
    vae_steps=(5000, 50_000),
    warmup=0,
    fixed={
        "hidden": 384,
        "depth": 12,
        "batch_size": 128,
        "lr": 1e-4,
        "schedule": "constant",
        "clip_grad": None,
        "vae_layers": 2,
        "vae_attention": "middle",
        "kl_weight": 1e-4,
        "vae_batch_size": 32,
        "vae_lr": 1e-4,
    },
)


def preset_of(config: TrainConfig, device: torch.device) -> Preset:
    """The column that a configuration asks for.

    "auto" is small on a processor and large on a GPU; a fine-tuning is large everywhere, because its rates
    are those that published networks were trained with.
    """
    if config.preset != "auto":
        return SMALL if config.preset == "small" else LARGE
    return LARGE if config.init is not None or device.type == "cuda" else SMALL


def resolution_for(opened: Dataset | ImageStream, preset: Preset) -> int:
    """A power of two at or below the median side of some images, from 32 to the preset's largest."""
    side = median_side(some_loads(opened))
    return max(_LOWEST_RESOLUTION, min(preset.resolution, 1 << (side.bit_length() - 1)))


def completed(
    config: TrainConfig,
    preset: Preset,
    recorded: Mapping[str, Any],
    *,
    images: int,
    latent_side: int | None = None,
) -> TrainConfig:
    """Fill what was not given.

    Args:
        config: With a resolution.
        preset: See `preset_of`.
        recorded: What an earlier command began the parts of this one with, which comes before the preset.
        images: Images of an epoch.
        latent_side: Side of the latents, where the autoencoder is not a new one.

    Returns:
        The configuration, with a value for all that its parts need.

    Raises:
        UserError: What was given does not fit what was filled in.
    """
    said = {config.steps, config.epochs, *(recorded.get(name) for name in ("steps", "vae_steps"))}
    if config.init is not None and said == {None}:
        config = replace(config, epochs=_FINE_TUNING_EPOCHS)
    halvings = 2 if config.resolution < preset.halved_thrice else 3
    of_preset = {**preset.fixed, "vae_channels": preset.vae_channels[: halvings + 1]}
    lasting = _FOLLOWING | (set(of_preset) if config.preset == "auto" else set())
    begun_with = {name: value for name, value in recorded.items() if name in lasting}
    config = _filled(config, {**of_preset, **begun_with})
    if latent_side is None and config.vae_channels is not None:
        latent_side = config.resolution // 2 ** (len(config.vae_channels) - 1)
    config = _filled(config, _numbers_of_steps(config, preset, images))
    return _filled(config, _consequences(config, preset, images, latent_side))


def steps_of(config: TrainConfig, part: str, count: int) -> int:
    """Optimiser steps of the training of "vae" or "dit" on `count` images."""
    vae = part == "vae"
    batch_size = config.vae_batch_size if vae else config.batch_size
    of_epochs = None if config.epochs is None else max(1, round(config.epochs * count / batch_size))
    return (config.vae_steps if vae else None) or of_epochs or config.steps or 1


def _filled(config: TrainConfig, chosen: Mapping[str, Any]) -> TrainConfig:
    """Take what is chosen where nothing was given and a part of the training wants it."""
    wanted = fields_of(config.part)
    if config.init is not None:
        wanted -= _ARCHITECTURE | set(_SMALL_LATENT_GUIDANCE)
    if config.model != CUSTOM_MODEL:
        wanted -= _DIT_SIZES
    if config.epochs is not None or (config.part == "vae" and config.steps is not None):
        wanted -= {"steps", "vae_steps"}
    missing: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in chosen.items()
        if name in wanted and getattr(config, name) is None
    }
    return replace(config, **missing)


def _numbers_of_steps(config: TrainConfig, preset: Preset, images: int) -> dict[str, int]:
    chosen = {}
    for name, batch_size, passes, (fewest, most) in (
        ("steps", config.batch_size, preset.passes, preset.steps),
        ("vae_steps", config.vae_batch_size, preset.vae_passes, preset.vae_steps),
    ):
        if batch_size is not None:
            chosen[name] = min(most, max(fewest, passes * images // batch_size))
    return chosen


def _consequences(
    config: TrainConfig, preset: Preset, images: int, latent_side: int | None
) -> dict[str, Any]:
    """Warm-up and averages, the last eighth of the steps; and what follows from width and latents."""
    averages = {"vae": "vae_ema", "dit": "ema"}
    steps = {part: steps_of(config, part, images) for part in averages if config.part in (part, "both")}
    chosen: dict[str, Any] = {"warmup": min(preset.warmup, min(steps.values()) // 10)}
    for part, total in steps.items():
        chosen[averages[part]] = min(_LARGEST_EMA, max(0.0, round(1 - 8 / total, 6)))
    if config.hidden is not None:
        most = max(1, config.hidden // preset.head_width)
        chosen["heads"] = next(heads for heads in range(most, 0, -1) if config.hidden % heads == 0)
    if latent_side is not None:
        chosen["patch"] = 1 if latent_side % 2 else 2
        if latent_side <= _LARGEST_SMALL_LATENT:
            chosen |= _SMALL_LATENT_GUIDANCE
    return chosen
