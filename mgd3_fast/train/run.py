"""What a training is made of: the configuration, and all that it names, opened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mgd3_fast.check import glance
from mgd3_fast.config.train import TrainConfig
from mgd3_fast.datasets import Dataset, chosen_framing, describe, open_dataset
from mgd3_fast.devices import resolve_device, resolve_precision
from mgd3_fast.errors import UserError
from mgd3_fast.generators import Generator, KLAutoencoder, ScheduleSettings, load_generator
from mgd3_fast.progress import Progress
from mgd3_fast.train.log import TrainingLog

_DEMO_DATASET, _DEMO_RESOLUTION, _USUAL_RESOLUTION = "mnist5k", 32, 256


@dataclass(frozen=True)
class TrainingRun:
    """A configuration and what it names.

    Args:
        config: What is trained and how.
        dataset: The images.
        init: Generator to fine-tune, or None.
        schedule: Noise schedule of the network.
        resolution: Side R of the images in pixels.
        device: Where networks are trained.
        bf16: Whether forward passes run under bfloat16 autocast.
        log: Receives settings and losses.
        progress: Where bars and losses go.
    """

    config: TrainConfig
    dataset: Dataset
    init: Generator | None
    schedule: ScheduleSettings
    resolution: int
    device: torch.device
    bf16: bool
    log: TrainingLog
    progress: Progress

    @property
    def out(self) -> Path:
        """The generator folder."""
        return Path(self.config.out)


def open_run(config: TrainConfig, progress: Progress) -> TrainingRun:
    """Open what a configuration names; nothing is written.

    Raises:
        UserError: Something does not exist, or does not fit the rest.
    """
    device = resolve_device(config.device)
    data_dir = None if config.data_dir is None else Path(config.data_dir)
    dataset = open_dataset(config.dataset, data_dir=data_dir, classes=config.classes, progress=progress)
    progress.note(describe(dataset))
    if dataset.stream is not None:
        raise UserError(
            f"dataset must be a folder, local shards or a built-in name to train on, got the stream"
            f" {config.dataset}, whose images can only be read one after another"
        )
    if len(dataset) < 2:
        raise UserError(f"dataset must have at least 2 images to train on, got {len(dataset)}")
    init = None if config.init is None else _open_init(config, dataset, progress)
    made = {} if init is None else {init.name: init.framing}
    dataset = replace(dataset, framing=chosen_framing(config, made))
    usual = _DEMO_RESOLUTION if dataset.name == _DEMO_DATASET else _USUAL_RESOLUTION
    resolution = config.resolution or (init.resolution if init else usual)
    if init is not None and resolution != init.resolution:
        raise UserError(f"resolution must be {init.resolution} to fine-tune {init.name}, got {resolution}")
    glance(config.dataset, dataset, resolution, progress, on_bad_image=config.on_bad_image)
    bf16 = resolve_precision(config.precision, device) == "bf16"
    log = TrainingLog(Path(config.out))
    return TrainingRun(
        config, dataset, init, _schedule_settings(init), resolution, device, bf16, log, progress
    )


def given_vae(config: TrainConfig) -> str | None:
    """The autoencoder named by `vae`, or trained before in `out`."""
    own = Path(config.out) / "vae"
    return str(own) if config.vae is None and (own / "config.json").is_file() else config.vae


def vae_source(generator: Generator) -> str:
    """Where the autoencoder of a generator lies.

    Raises:
        UserError: It is not KL-regularised.
    """
    if not isinstance(generator.autoencoder, KLAutoencoder):
        raise UserError(f"init must be a generator with a KL autoencoder, got {generator.name}")
    return generator.autoencoder.source


def _open_init(config: TrainConfig, dataset: Dataset, progress: Progress) -> Generator:
    init = load_generator(
        str(config.init),
        dataset_name=dataset.name,
        vae=given_vae(config) if config.part == "dit" else None,
        heads=config.generator_heads,
        classes=config.generator_classes,
    )
    for note in init.notes:
        progress.note(note)
    return init


def _schedule_settings(init: Generator | None) -> ScheduleSettings:
    """Settings of the schedule that `init` was trained with, which its fine-tuned network is trained with."""
    if init is None:
        return ScheduleSettings()
    if init.prediction != "epsilon":
        raise UserError(f"init must predict the noise, as `train` teaches it, and {init.name} predicts v")
    betas = init.schedule.betas
    for kind in ("linear", "scaled_linear"):
        settings = ScheduleSettings(
            kind=kind, timesteps=len(betas), start=float(betas[0]), end=float(betas[-1])
        )
        if settings.build() == init.schedule:
            return settings
    raise UserError(f"init must have a linear or scaled linear noise schedule, got that of {init.name}")
