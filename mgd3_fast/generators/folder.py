"""Our own generator folder: what `train` writes and the shipped demo model is.

`generator.json` describes it, `dit.safetensors` holds the network and `vae/` the autoencoder as diffusers
saves one. `generator.json` is written last: a folder that has it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from mgd3_engine.autoencoder import AutoencoderKL
from mgd3_engine.dit import DiT, DiTConfig, load_dit, save_dit
from mgd3_engine.files.json_file import read_json
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.datasets import DEFAULT_FRAMING, Framing
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import KLAutoencoder
from mgd3_fast.generators.autoencoder_weights import save_autoencoder
from mgd3_fast.generators.base import Generator
from mgd3_fast.generators.dit import DIT_CFG_CHANNELS, DiTNetwork, dit_generator
from mgd3_fast.generators.trained_schedule import ScheduleSettings, Training
from mgd3_fast.storage.json_results import write_json

FORMAT_VERSION = 1
DESCRIPTION = "generator.json"
NETWORK = "dit.safetensors"
AUTOENCODER = "vae"
TRAINING = "training.json"

_KINDS: dict[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "text"),
}
_Settings = TypeVar("_Settings", DiTConfig, SamplingDefaults, ScheduleSettings)


def save_generator(
    folder: str | Path,
    dit: DiT,
    *,
    name: str,
    vae: AutoencoderKL | None = None,
    vae_source: str | None = None,
    class_names: tuple[str, ...] | None,
    licence: str,
    recipe: Mapping[str, Any],
    defaults: SamplingDefaults | None = None,
    schedule: ScheduleSettings | None = None,
    cfg_channels: int | None = DIT_CFG_CHANNELS,
    dtype: torch.dtype | None = None,
    framing: Framing = DEFAULT_FRAMING,
) -> None:
    """Write a generator folder.

    Args:
        folder: The folder; made if it does not exist.
        dit: The network.
        name: Short name for reports.
        vae: `AutoencoderKL`, to be written into the folder; its `config.scaling_factor` is 1 / standard
            deviation of the latents. None with `vae_source`, or where `folder/vae` is already there.
        vae_source: Hub id or path of an autoencoder that is not copied into the folder.
        class_names: In the order of the class ids, or None.
        licence: Of the weights.
        recipe: How it was trained: anything JSON can hold.
        defaults: Sampling settings; None is the paper's for DiT.
        schedule: Noise schedule of the training; None is the paper's.
        cfg_channels: Channels that classifier-free guidance acts on; None is all.
        dtype: Of the stored weights; None keeps the networks'.
        framing: How the images that it was trained on became RGB and square.

    Raises:
        ValueError: There is no autoencoder, or its latents do not fit the network.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    if vae is not None:
        save_autoencoder(folder / AUTOENCODER, vae, vae.config.scaling_factor, dtype)
    autoencoder = KLAutoencoder(vae_source if vae_source is not None else folder / AUTOENCODER)
    schedule = schedule if schedule is not None else ScheduleSettings()
    defaults = defaults if defaults is not None else SamplingDefaults()
    generator = dit_generator(
        DiTNetwork(lambda: dit), dit.config, autoencoder, name=name, source=str(folder), licence=licence
    )
    save_dit(folder / NETWORK, dit, dtype=dtype)
    description = {
        "format": FORMAT_VERSION,
        "name": name,
        "resolution": generator.resolution,
        "latent_shape": list(generator.latent_shape),
        "class_names": None if class_names is None else list(class_names),
        "prediction": generator.prediction,
        "cfg_channels": cfg_channels,
        "schedule": asdict(schedule),
        "defaults": asdict(defaults),
        "dit": asdict(dit.config),
        "vae": vae_source if vae_source is not None else AUTOENCODER,
        "licence": licence,
        "recipe": dict(recipe),
        **framing.record(),
    }
    _write_description(folder, description)


def amend_description(folder: str | Path, **changed: Any) -> None:
    """Set keys of a folder's `generator.json`, such as "quality", whole or not at all; the others stay.

    Args:
        folder: A folder that `save_generator` wrote.
        changed: New values, anything JSON can hold, by key.

    Raises:
        FileNotFoundError: The folder has no description.
        ValueError: It is damaged.
        OSError: It cannot be written; the old one stays.
    """
    _write_description(Path(folder), {**read_json(Path(folder) / DESCRIPTION), **changed})


def _write_description(folder: Path, description: Mapping[str, Any]) -> None:
    write_json(folder / DESCRIPTION, description, indent=2, shared=True)


def load_generator_folder(folder: str | Path, vae: str | None = None) -> Generator:
    """Open a generator folder; its weights load on first use, as float32.

    Args:
        folder: A folder that `save_generator` wrote.
        vae: Another autoencoder than the folder's: a path or hub id.

    Returns:
        The generator.

    Raises:
        FileNotFoundError: A file of the folder is missing.
        UserError: The description is damaged, of a later version, or does not fit the autoencoder.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    description = read_json(path)
    if description.get("format") != FORMAT_VERSION:
        raise UserError(f"format of {path} must be {FORMAT_VERSION}, got {description.get('format')!r}")
    if not (folder / NETWORK).is_file():
        raise FileNotFoundError(f"no {NETWORK} in {folder}")
    config = _settings(DiTConfig, description, "dit", path)
    own_vae = str(description.get("vae", AUTOENCODER))
    source = vae or (str(folder / own_vae) if (folder / own_vae).exists() else own_vae)
    names = description.get("class_names")
    if names is not None and (not isinstance(names, list) or len(names) != config.num_classes):
        got = len(names) if isinstance(names, list) else repr(names)
        raise UserError(f"class_names of {path} must be {config.num_classes} names, got {got}")
    cfg_channels = description.get("cfg_channels", DIT_CFG_CHANNELS)
    if cfg_channels is not None and type(cfg_channels) is not int:
        raise UserError(f"cfg_channels of {path} must be a whole number or null, got {cfg_channels!r}")
    prediction = description.get("prediction", "epsilon")
    if prediction not in ("epsilon", "v"):
        raise UserError(f"prediction of {path} must be epsilon or v, got {prediction!r}")
    schedule = _settings(ScheduleSettings, description, "schedule", path).build()
    generator = dit_generator(
        DiTNetwork(lambda: load_dit(folder / NETWORK, config)),
        config,
        KLAutoencoder(source),
        name=str(description.get("name", folder.name)),
        source=str(folder),
        licence=str(description.get("licence", "not stated")),
        class_names=None if names is None else tuple(str(name) for name in names),
        defaults=_settings(SamplingDefaults, description, "defaults", path),
        training=Training(schedule, prediction),
        cfg_channels=cfg_channels,
    )
    return replace(generator, quality=_quality(description, path), framing=Framing.recorded(description))


def _quality(description: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    quality = description.get("quality")
    if quality is None:
        return None
    texts = ("verdict", "line", "dataset", "date")
    whole = isinstance(quality, dict) and all(isinstance(quality.get(name), str) for name in texts)
    if not whole or not isinstance(quality.get("measures"), dict):
        raise UserError(f"quality of {path} must be what `mgd3-fast judge` wrote, got {quality!r}: remove it")
    return dict(quality)


def _settings(cls: type[_Settings], description: Mapping[str, Any], key: str, path: Path) -> _Settings:
    stored = description.get(key)
    allowed = {field.name for field in fields(cls)}
    if not isinstance(stored, dict) or not stored.keys() <= allowed:
        raise UserError(
            f"{key} of {path} must be an object with {', '.join(sorted(allowed))}, got {stored!r}"
        )
    for field in fields(cls):
        value = stored.get(field.name)
        kind, wanted = _KINDS[str(field.type)]
        if field.name in stored and type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"{field.name} in {key} of {path} must be {wanted}, got {value!r}")
    try:
        return cls(**stored)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key} of {path} is not valid: {error}") from None
