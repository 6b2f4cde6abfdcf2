"""`train`: from a dataset to a generator folder, or from a generator to a fine-tuned one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mgd3_engine.autoencoder import AutoencoderKL
from mgd3_engine.dit import DiT
from mgd3_engine.files.json_file import read_json
from mgd3_fast.config.train import TrainConfig, identity
from mgd3_fast.errors import UserError
from mgd3_fast.generators import (
    SamplingDefaults,
    amend_description,
    class_ids,
    load_generator_folder,
    save_generator,
)
from mgd3_fast.generators.folder import DESCRIPTION, NETWORK
from mgd3_fast.judge import JudgeConfig, is_about, judge_generator
from mgd3_fast.latents import latent_shape
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.train.autoencoder import STORED_DTYPES, new_autoencoder, start_autoencoder, train_autoencoder
from mgd3_fast.train.estimate import tell_estimate
from mgd3_fast.train.latents import held_out_latents, training_latents
from mgd3_fast.train.network import copied_network, new_network, train_network
from mgd3_fast.train.preset import steps_of
from mgd3_fast.train.run import TrainingRun, open_run, trained_on, vae_source
from mgd3_fast.train.sheets import sample_sheets
from mgd3_fast.versions import versions


def train_generator(config: TrainConfig, progress: Progress = SILENT) -> Path:
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
    run, asked = open_run(config, progress), _sampling(config)
    config = run.config
    ids = [] if config.part == "vae" else _class_ids(run)
    vae = None if config.part == "dit" else _starting_autoencoder(run)
    network = None if config.part == "vae" else _starting_network(run, vae)
    run = tell_estimate(run, vae, network)
    if vae is not None:
        train_autoencoder(run, vae)
    if network is not None:
        earlier, digests = _earlier_generator(run.out)
        _train_dit(run, network, ids)
        if digests and load_generator_folder(run.out).digests == digests:
            _keep_settings(run, earlier, asked)
        _judge(run, earlier.get("quality") or {})
    return run.out


def _starting_autoencoder(run: TrainingRun) -> AutoencoderKL:
    return new_autoencoder(run.config) if run.init is None else start_autoencoder(vae_source(run.init))


def _starting_network(run: TrainingRun, vae: AutoencoderKL | None) -> DiT:
    """Make or copy the network; it is known to fit the latents before anything is trained."""
    config, init = run.config, run.init
    shape = latent_shape(trained_on(config, init) if vae is None else vae.config, run.resolution)
    if init is None:
        return new_network(config, num_classes=len(run.dataset.classes), latent_shape=shape)
    if shape != init.latent_shape:
        raise UserError(f"vae must give latents {init.latent_shape} for the network of init, got {shape}")
    return copied_network(init)


def _class_ids(run: TrainingRun) -> list[int]:
    """The network's id of each class; one that init does not know is found before anything is trained."""
    if run.init is None:
        return list(range(len(run.dataset.classes)))
    return list(class_ids(run.init, run.dataset, run.progress))


def _train_dit(run: TrainingRun, network: DiT, ids: list[int]) -> None:
    config = run.config
    autoencoder = trained_on(config, run.init)
    settings: dict[str, Any] = {**run.images, "autoencoder": autoencoder.digest}
    if config.generator_classes is not None:
        settings["class_ids"] = ids
    if config.generator_heads is not None:
        settings["generator_heads"] = config.generator_heads
    run.log.begin("dit", {**identity(config, "dit"), **settings})
    latents = training_latents(run, autoencoder, ids)
    steps = steps_of(config, "dit", len(latents))
    sheets = sample_sheets(run, network, autoencoder, ids, _defaults(run), steps)
    network, log = train_network(run, network, latents, held_out_latents(run, autoencoder, ids), sheets)
    run.log.finish("dit", log)
    _save(run, network, autoencoder.source)


def _save(run: TrainingRun, network: DiT, source: str) -> None:
    """Write the generator; an autoencoder on this machine is copied into it, one on the hub is named."""
    config, init = run.config, run.init
    local = Path(source).exists()
    copied = local and not (run.out / "vae/config.json").is_file()
    training = {part: run.log.summary(part) for part in ("vae", "dit") if run.log.finished(part)}
    save_generator(
        run.out,
        network,
        name=config.name or run.out.resolve().name,
        vae=start_autoencoder(source) if copied else None,
        vae_source=None if local else source,
        class_names=run.dataset.class_names if init is None else init.class_names,
        licence=config.licence or ("not stated" if init is None else init.licence),
        recipe={"config": config.recipe(), "seed": config.seed, "training": training, "versions": versions()},
        defaults=_defaults(run),
        schedule=run.schedule,
        cfg_channels=None if init is None else init.cfg_channels,
        dtype=STORED_DTYPES[config.stored_precision],
        framing=run.dataset.framing,
    )


def _defaults(run: TrainingRun) -> SamplingDefaults:
    """What the generator is sampled with unless told otherwise."""
    return replace(SamplingDefaults() if run.init is None else run.init.defaults, **_sampling(run.config))


def _sampling(config: TrainConfig) -> dict[str, Any]:
    """The settings of sampling that a configuration states."""
    stated = {name: getattr(config, name) for name in ("cfg_scale", "mode_scale", "t_stop")}
    return {name: value for name, value in stated.items() if value is not None}


def _earlier_generator(out: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What the folder said of itself before, and the digests of its weights; empty where there are none."""
    if not (out / DESCRIPTION).is_file():
        return {}, {}
    whole = (out / NETWORK).is_file()
    return read_json(out / DESCRIPTION), load_generator_folder(out).digests if whole else {}


def _keep_settings(run: TrainingRun, earlier: dict[str, Any], asked: dict[str, Any]) -> None:
    """Sample weights that are as they were as before, but for what is asked for; keep what `tune` chose."""
    defaults, tuning = earlier["defaults"], {key: earlier[key] for key in ("tuning",) if key in earlier}
    if tuning and not asked.items() <= defaults.items():
        run.progress.note("the options given replace what tune had chosen: its table is removed")
    else:
        amend_description(run.out, defaults={**defaults, **asked}, **tuning)


def _judge(run: TrainingRun, earlier: dict[str, Any]) -> None:
    """Say how good the trained generator is; an earlier verdict that is about it as it is stays."""
    generator, config = load_generator_folder(run.out), run.config
    if earlier and is_about(earlier, generator):
        amend_description(run.out, quality=earlier)
        return
    if config.judge == "off":
        return
    judging = JudgeConfig(
        dataset=config.dataset,
        data_dir=config.data_dir,
        classes=config.classes,
        split=config.split,
        generator=str(run.out),
        on_bad_image=config.on_bad_image,
        precision=config.precision,
        device=config.device,
        cache_dir=config.cache_dir,
        seed=config.seed,
    )
    try:
        quality = judge_generator(judging, run.progress)
    except UserError as error:
        run.progress.note(f"not judged: {error}")
        return
    run.progress.note(f"{generator.name} is {quality['line']}")
