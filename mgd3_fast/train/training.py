"""`train`: from a dataset to a generator folder, or from a generator to a fine-tuned one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mgd3_engine.dit import DiT
from mgd3_fast.config.train import TrainConfig, identity
from mgd3_fast.errors import UserError
from mgd3_fast.generators import (
    KLAutoencoder,
    SamplingDefaults,
    class_ids,
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
from mgd3_fast.train.network import architecture, copied_network, new_network, train_network
from mgd3_fast.train.run import TrainingRun, given_vae, open_run, vae_source
from mgd3_fast.versions import versions


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
    run = open_run(config, progress)
    if run.init is None and config.part == "both":  # refused before anything is trained
        architecture(config, len(run.dataset.classes), new_latent_shape(config, run.resolution))
    if config.part in ("vae", "both"):
        train_autoencoder(run, start_autoencoder(vae_source(run.init)) if run.init else None)
    if config.part in ("dit", "both"):
        _train_dit(run)
    return run.out


def _train_dit(run: TrainingRun) -> None:
    config, init = run.config, run.init
    source = given_vae(config) or (vae_source(init) if init is not None else None)
    if source is None:
        raise UserError("vae must be given for part dit, unless out holds one or init has one")
    autoencoder = KLAutoencoder(source)
    shape = latent_shape(autoencoder, run.resolution)
    if init is not None:
        network, ids = copied_network(init), list(class_ids(init, run.dataset, run.progress))
        if shape != init.latent_shape:
            raise UserError(f"vae must give latents {init.latent_shape} for the network of init, got {shape}")
    else:
        ids = list(range(len(run.dataset.classes)))
        network = new_network(config, num_classes=len(ids), latent_shape=shape)
    settings: dict[str, Any] = {"images": run.dataset.fingerprint, "autoencoder": autoencoder.digest}
    settings |= run.dataset.framing.record()
    if config.generator_classes is not None:
        settings["class_ids"] = ids
    if config.generator_heads is not None:
        settings["generator_heads"] = config.generator_heads
    run.log.begin("dit", {**identity(config, "dit"), **settings})
    latents = training_latents(run, autoencoder, ids)
    network, log = train_network(run, network, latents)
    run.log.finish("dit", log)
    _save(run, network, source)


def _save(run: TrainingRun, network: DiT, source: str) -> None:
    """Write the generator; an autoencoder on this machine is copied into it, one on the hub is named."""
    config, init = run.config, run.init
    local = Path(source).exists()
    copied = local and not (run.out / "vae/config.json").is_file()
    training = {part: run.log.summary(part) for part in ("vae", "dit") if run.log.finished(part)}
    asked = {name: getattr(config, name) for name in ("cfg_scale", "mode_scale", "t_stop")}
    save_generator(
        run.out,
        network,
        name=config.name or run.out.resolve().name,
        vae=start_autoencoder(source) if copied else None,
        vae_source=None if local else source,
        class_names=run.dataset.class_names if init is None else init.class_names,
        licence=config.licence or ("not stated" if init is None else init.licence),
        recipe={"config": config.recipe(), "seed": config.seed, "training": training, "versions": versions()},
        defaults=replace(
            SamplingDefaults() if init is None else init.defaults,
            **{name: value for name, value in asked.items() if value is not None},
        ),
        schedule=run.schedule,
        cfg_channels=None if init is None else init.cfg_channels,
        dtype=STORED_DTYPES[config.stored_precision],
        framing=run.dataset.framing,
    )
