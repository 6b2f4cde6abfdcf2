"""What a training is made of: the configuration, and all that it names, opened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mgd3_fast.check import glance
from mgd3_fast.config.train import TrainConfig
from mgd3_fast.datasets import Dataset, Framing, ImageStream, chosen_framing
from mgd3_fast.devices import resolve_device, resolve_precision
from mgd3_fast.errors import UserError
from mgd3_fast.generators import Generator, KLAutoencoder, ScheduleSettings, load_generator
from mgd3_fast.latents import LatentStore, latent_shape
from mgd3_fast.progress import Progress
from mgd3_fast.run.sources import open_images
from mgd3_fast.train.held_out import open_held_out_images
from mgd3_fast.train.log import TrainingLog
from mgd3_fast.train.preset import completed, preset_of, resolution_for
from mgd3_fast.train.streams import Pixels, pixel_store, read_stream


@dataclass(frozen=True)
class TrainingRun:
    """A configuration and what it names.

    Args:
        config: What is trained and how, with nothing left to a preset.
        dataset: The images.
        init: Generator to fine-tune, or None.
        schedule: Noise schedule of the network.
        resolution: Side R of the images in pixels.
        device: Where networks are trained.
        bf16: Whether forward passes run under bfloat16 autocast.
        log: Receives settings and losses.
        progress: Where bars and losses go.
        pixels: Where the images of a stream lie, for an autoencoder to learn from.
        held_out: Some images that are not trained on, of the same classes; None where there are none.
        later_s: Seconds that the DiT takes after the autoencoder, as estimated.
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
    pixels: LatentStore | None = None
    held_out: Dataset | None = None
    later_s: float = 0.0

    @property
    def out(self) -> Path:
        """The generator folder."""
        return Path(self.config.out)

    @property
    def images(self) -> dict[str, Any]:
        """What identifies the images as they are seen, as JSON values by name."""
        return {"images": self.dataset.fingerprint, **self.dataset.framing.options()}


def open_run(config: TrainConfig, progress: Progress) -> TrainingRun:
    """Open what a configuration names, and choose what it leaves open; nothing is written to `out`.

    Raises:
        UserError: Something does not exist, or does not fit the rest.
    """
    device = resolve_device(config.device)
    opened = open_images(config, progress)
    log = TrainingLog(Path(config.out))
    init = None if config.init is None else _open_init(config, opened.name, progress)
    schedule = _schedule_settings(init)
    vae = trained_on(config, init) if config.part == "dit" else None
    framing = _framing(config, init, log)
    if isinstance(opened, Dataset):
        opened = replace(opened, framing=framing)
    preset = preset_of(config, device)
    resolution = _resolution(config, init, vae, log, progress) or resolution_for(opened, preset)
    shape = None if vae is None else latent_shape(vae, resolution)
    glance(config.dataset, opened, resolution, progress, on_bad_image=config.on_bad_image)
    dataset, pixels = _readable(opened, vae, resolution, framing, config, device, progress)
    if len(dataset) < 2:
        raise UserError(f"dataset must have at least 2 images to train on, got {len(dataset)}")
    config = completed(
        replace(config, resolution=resolution),
        preset,
        log.begun_with(config.part),
        images=len(dataset),
        latent_side=None if shape is None else shape[1],
    )
    bf16 = resolve_precision(config.precision, device) == "bf16"
    held_out = open_held_out_images(config, dataset)
    return TrainingRun(
        config, dataset, init, schedule, resolution, device, bf16, log, progress, pixels, held_out
    )


def trained_on(config: TrainConfig, init: Generator | None) -> KLAutoencoder:
    """The autoencoder whose latents the DiT learns: that of `vae`, the one in `out`, or that of `init`.

    Raises:
        UserError: There is none, or it is not KL-regularised.
    """
    source = given_vae(config) or (None if init is None else vae_source(init))
    if source is None:
        raise UserError(
            "vae must be given for part dit, because neither out nor init has an autoencoder:"
            " --part both trains both, and --part vae the autoencoder first"
        )
    return KLAutoencoder(source)


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


def _resolution(
    config: TrainConfig,
    init: Generator | None,
    vae: KLAutoencoder | None,
    log: TrainingLog,
    progress: Progress,
) -> int | None:
    """The side that is given, or that what is there already asks for; None where it is free."""
    given: int | None = config.resolution
    if init is not None:
        if given not in (None, init.resolution):
            raise UserError(f"resolution must be {init.resolution} to fine-tune {init.name}, got {given}")
        return init.resolution
    begun: int | None = log.begun_with(config.part).get("resolution")
    if vae is None:
        return given or begun
    own: int | None = log.begun_with("vae").get("resolution") if config.vae is None else None
    side = own or vae.trained_resolution
    if given is None or given == side or side is None:
        return given or begun or side
    if config.vae is None:
        raise UserError(
            f"resolution must be left out or {side}, which the autoencoder in {config.out} was trained at,"
            f" got {given}"
        )
    progress.note(f"warning: the autoencoder {config.vae} was trained at {side} px, not at {given}")
    return given


def _framing(config: TrainConfig, init: Generator | None, log: TrainingLog) -> Framing:
    """What is given, or else what the folder was begun with, or that of `init`."""
    begun = log.begun_with("both")
    made = {str(config.out): Framing.recorded(begun)} if begun else {}
    return chosen_framing(config, made or ({} if init is None else {init.name: init.framing}))


def _readable(
    opened: Dataset | ImageStream,
    vae: KLAutoencoder | None,
    resolution: int,
    framing: Framing,
    config: TrainConfig,
    device: torch.device,
    progress: Progress,
) -> tuple[Dataset, LatentStore | None]:
    """A dataset whose latents or, for an autoencoder to learn from, whose pixels can be read in any order."""
    if isinstance(opened, Dataset) and opened.stream is None:
        return opened, None
    if vae is not None:
        store = LatentStore(config.cache_dir, vae.digest, resolution, framing=framing)
        return read_stream(opened, vae, store, config, progress, device), None
    progress.note(
        "a stream is read twice: for its pixels, and for its latents when the autoencoder is trained"
    )
    pixels = pixel_store(config, resolution, framing)
    return read_stream(opened, Pixels(), pixels, config, progress), pixels


def _open_init(config: TrainConfig, dataset_name: str, progress: Progress) -> Generator:
    try:
        init = load_generator(
            str(config.init),
            dataset_name=dataset_name,
            vae=given_vae(config) if config.part == "dit" else None,
            heads=config.generator_heads,
            classes=config.generator_classes,
        )
    except UserError as error:  # the option is called otherwise here
        raise UserError(str(error).replace("generator must", "init must", 1)) from None
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
