"""`train`: from a dataset to a generator folder, or from a generator to a fine-tuned one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mgd3_engine.dit import DiT
from mgd3_fast.config.train import TrainConfig, identity
from mgd3_fast.datasets import Dataset, describe, open_dataset
from mgd3_fast.devices import resolve_device, resolve_precision
from mgd3_fast.errors import UserError
from mgd3_fast.generators import (
    Generator,
    KLAutoencoder,
    SamplingDefaults,
    ScheduleSettings,
    load_generator,
    save_generator,
)
from mgd3_fast.latents import latent_shape
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.train.autoencoder import (
    STORED_DTYPES,
    new_latent_shape,
    start_autoencoder,
    train_autoencoder,
)
from mgd3_fast.train.latents import training_latents
from mgd3_fast.train.log import CHECKPOINTS, TrainingLog
from mgd3_fast.train.network import check_new_network, copied_network, new_network, train_network
from mgd3_fast.versions import versions

_DEMO_DATASET, _DEMO_RESOLUTION, _USUAL_RESOLUTION = "mnist5k", 32, 256


def train(config: TrainConfig, progress: Progress = SILENT) -> Path:
    """Train an autoencoder, a DiT on its latents, or one after the other, and write a generator folder.

    A run that was stopped goes on from its last checkpoint when it is started again, and ends with the same
    weights as one that was not; a finished one is only written out again.

    Args:
        config: What and how.
        progress: Where bars and losses go.

    Returns:
        `config.out`, which holds `generator.json`, `dit.safetensors` and `vae/` (only the last for part
        "vae"), `training.json` with the loss curves, and `checkpoints/`.

    Raises:
        UserError: Something named does not exist, sizes do not fit, `out` belongs to another run, or the
            loss is not finite.
        Interrupted: Ctrl-C; a checkpoint was written.
    """
    run = _open_run(config, progress)
    if config.part in ("vae", "both"):
        start = start_autoencoder(_vae_source(run.init)) if run.init else None
        train_autoencoder(
            config,
            run.dataset,
            run.resolution,
            start=start,
            device=run.device,
            bf16=run.bf16,
            log=run.log,
            progress=progress,
        )
    if config.part in ("dit", "both"):
        _train_dit(config, run, progress)
    return run.out


@dataclass(frozen=True)
class _Run:
    """What a configuration names, opened."""

    out: Path
    dataset: Dataset
    init: Generator | None
    resolution: int
    device: torch.device
    bf16: bool
    log: TrainingLog


def _open_run(config: TrainConfig, progress: Progress) -> _Run:
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
    init = None
    if config.init is not None:
        given = _given_vae(config) if config.part == "dit" else None
        init = load_generator(config.init, dataset_name=dataset.name, vae=given)
    usual = _DEMO_RESOLUTION if dataset.name == _DEMO_DATASET else _USUAL_RESOLUTION
    resolution = config.resolution or (init.resolution if init else usual)
    if init is not None and resolution != init.resolution:
        raise UserError(f"resolution must be {init.resolution} to fine-tune {init.name}, got {resolution}")
    if init is None and config.part == "both":
        check_new_network(config, len(dataset.classes), new_latent_shape(config, resolution))
    out = Path(config.out)
    bf16 = resolve_precision(config.precision, device) == "bf16"
    return _Run(out, dataset, init, resolution, device, bf16, TrainingLog(out))


def _train_dit(config: TrainConfig, run: _Run, progress: Progress) -> None:
    vae_source = _vae_of(config, run)
    autoencoder = KLAutoencoder(vae_source)
    shape = latent_shape(autoencoder, run.resolution)
    names = run.dataset.class_names
    if run.init is not None:
        network, class_ids = copied_network(run.init), run.init.class_ids(names)
        _check_fits(network, shape)
    else:
        network = new_network(config, num_classes=len(names), latent_shape=shape)
        class_ids = list(range(len(names)))
    settings = {"images": run.dataset.fingerprint, "autoencoder": autoencoder.digest}
    run.log.begin("dit", {**identity(config, "dit"), **settings})
    latents = training_latents(
        run.dataset,
        autoencoder,
        class_ids,
        resolution=run.resolution,
        augmentation=config.augment,
        num_changed=config.augment_copies,
        cache_dir=None if config.cache_dir is None else Path(config.cache_dir),
        device=run.device,
        on_bad_image=config.on_bad_image,
        progress=progress,
    )
    schedule = run.init.schedule if run.init is not None else ScheduleSettings().build()
    network, log = train_network(
        config,
        network,
        latents,
        schedule,
        checkpoint=run.out / CHECKPOINTS / "dit.pt",
        device=run.device,
        bf16=run.bf16,
        progress=progress,
    )
    run.log.finish("dit", log)
    _save(config, run, network, vae_source)


def _vae_of(config: TrainConfig, run: _Run) -> str:
    """Source of the autoencoder that the DiT is trained on."""
    given = _given_vae(config)
    if given is not None:
        return given
    if run.init is not None:
        return _vae_source(run.init)
    raise UserError("vae must be given for part dit, unless out holds one or init has one")


def _given_vae(config: TrainConfig) -> str | None:
    """The autoencoder named by `vae`, or trained before in `out`."""
    own = Path(config.out) / "vae"
    return str(own) if config.vae is None and (own / "config.json").is_file() else config.vae


def _vae_source(generator: Generator) -> str:
    if not isinstance(generator.autoencoder, KLAutoencoder):
        raise UserError(f"init must be a generator with a KL autoencoder, got {generator.name}")
    return generator.autoencoder.source


def _check_fits(network: DiT, shape: tuple[int, int, int]) -> None:
    side = network.config.input_size
    wanted = (network.config.in_channels, side, side)
    if shape != wanted:
        raise UserError(f"vae must give latents {wanted} for the network of init, got {shape}")


def _save(config: TrainConfig, run: _Run, network: DiT, vae_source: str) -> None:
    """Write the generator; an autoencoder on this machine is copied into it, one on the hub is named."""
    init, own = run.init, run.out / "vae"
    local = Path(vae_source).exists()
    copied = local and not (own / "config.json").is_file()
    training = {part: run.log.summary(part) for part in ("vae", "dit") if run.log.finished(part)}
    defaults = SamplingDefaults() if init is None else init.defaults
    inherited = "not stated" if init is None else init.licence
    asked = {name: getattr(config, name) for name in ("cfg_scale", "mode_scale", "t_stop")}
    defaults = replace(defaults, **{name: value for name, value in asked.items() if value is not None})
    save_generator(
        run.out,
        network,
        name=config.name or run.out.resolve().name,
        vae=start_autoencoder(vae_source) if copied else None,
        vae_source=None if local else vae_source,
        class_names=run.dataset.class_names if init is None else init.class_names,
        licence=config.licence or inherited,
        recipe={"config": config.recipe(), "seed": config.seed, "training": training, "versions": versions()},
        defaults=defaults,
        schedule=_schedule_settings(init),
        cfg_channels=None if init is None else init.cfg_channels,
        dtype=STORED_DTYPES[config.stored_precision],
    )


def _schedule_settings(init: Generator | None) -> ScheduleSettings:
    """Settings of the schedule that `init` was trained with."""
    if init is None:
        return ScheduleSettings()
    betas = init.schedule.betas
    for kind in ("linear", "scaled_linear"):
        settings = ScheduleSettings(
            kind=kind, timesteps=len(betas), start=float(betas[0]), end=float(betas[-1])
        )
        if settings.build() == init.schedule:
            return settings
    raise UserError(f"init must have a linear or scaled linear noise schedule, got that of {init.name}")
