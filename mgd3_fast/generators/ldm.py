"""Generators of the latent diffusion family: class-conditional U-Nets (Rombach et al. 2022).

Shape letters: N classes, E numbers of a class embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mgd3_engine import NoiseSchedule
from mgd3_engine.files.weights import read_model_weights
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.datasets.imagenet import imagenet_classes
from mgd3_fast.errors import UserError
from mgd3_fast.generators.base import Autoencoder, Generator
from mgd3_fast.generators.ldm_network import ClassUNet
from mgd3_fast.generators.ldm_weights import (
    checked_table,
    class_table,
    is_original_ldm,
    original_settings,
    original_unet,
)
from mgd3_fast.generators.pipeline_files import SCHEDULER, PipelineFiles
from mgd3_fast.generators.refusing import complete_or_refused
from mgd3_fast.generators.trained_schedule import trained_schedule
from mgd3_fast.generators.unet_weights import filled_unet, load_unet, unet_settings
from mgd3_fast.generators.vq_autoencoder import open_autoencoder

LDM_DEFAULTS = SamplingDefaults(cfg_scale=3.0)
"""The guidance of the original sampling script; the rest is MGD3's for DiT, which states none for this."""

CLASS_EMBEDDER = "class_embedder"
"""The folder of a diffusers layout whose weights file holds the class embeddings, as `embedding.weight`."""

_TABLE = "embedding.weight"
_RESOLUTION = 256  # of cin256-v2; a checkpoint file does not tell
_LICENCE = "not stated; CompVis' repository is under the MIT licence"


def is_ldm(path: Path) -> bool:
    """Tell what is at a path from the other families, by what it holds.

    Args:
        path: An existing folder or file.

    Raises:
        ValueError: The file is damaged, or holds more than weights.
    """
    return (path / CLASS_EMBEDDER).is_dir() if path.is_dir() else is_original_ldm(path)


def ldm_from_path(path: Path, vae: str | None = None) -> Generator:
    """Make the generator of an original checkpoint file or of a folder in diffusers' layout.

    Args:
        path: A file in the original names, as `cin256-v2`'s `model.ckpt` or as safetensors; or a folder of
            `unet`, `vqvae` or `vae`, `class_embedder`, and `scheduler` unless the schedule is cin256-v2's.
        vae: Another autoencoder than the generator's own: a path or hub id.

    Returns:
        The generator; its weights load on first use.

    Raises:
        UserError: A file is missing or damaged, or the parts do not fit together.
        ValueError: A weights file is damaged.
    """
    return _from_folder(path, vae) if path.is_dir() else _from_file(path, vae)


def _from_file(path: Path, vae: str | None) -> Generator:
    settings = original_settings(path)

    def load() -> tuple[Any, Tensor]:
        weights = original_unet(path, settings)
        with complete_or_refused(path, "U-Net"):
            return filled_unet(settings, weights), class_table(path)

    autoencoder = open_autoencoder(vae or path)
    return _generator(
        path,
        ClassUNet(load),
        {**settings, "sample_size": _RESOLUTION // autoencoder.downsample},
        class_table(path),
        autoencoder,
    )


def _from_folder(path: Path, vae: str | None) -> Generator:
    files = PipelineFiles(str(path), _LICENCE)
    settings = unet_settings(files.settings("unet/config.json"), str(path))
    if not isinstance(settings.get("sample_size"), int):
        raise UserError(
            f"unet of {path} must state sample_size, a number, got {settings.get('sample_size')!r}"
        )
    schedule, prediction = None, "epsilon"
    if (path / SCHEDULER).is_file():
        schedule, prediction = trained_schedule(files.settings(SCHEDULER), f"{path}/{SCHEDULER}")
    return _generator(
        path,
        ClassUNet(lambda: (load_unet(path / "unet"), _table_of(path))),
        settings,
        _table_of(path),
        open_autoencoder(vae or path),
        schedule,
        prediction,
    )


def _table_of(folder: Path) -> Tensor:
    weights = read_model_weights(folder / CLASS_EMBEDDER)
    if _TABLE not in weights:
        raise UserError(f"{folder / CLASS_EMBEDDER} must hold {_TABLE}, got {', '.join(list(weights)[:3])}")
    return checked_table(weights[_TABLE], f"{_TABLE} of {folder / CLASS_EMBEDDER}")


def _generator(
    path: Path,
    network: ClassUNet,
    settings: dict[str, Any],
    table: Tensor,
    autoencoder: Autoencoder,
    schedule: NoiseSchedule | None = None,
    prediction: str = "epsilon",
) -> Generator:
    channels, side = settings.get("in_channels", 4), settings["sample_size"]
    if autoencoder.latent_channels != channels:
        raise UserError(
            f"vae must have {channels} latent channels for {path}, got {autoencoder.latent_channels}"
        )
    N, width = len(table) - 1, settings.get("cross_attention_dim")
    if table.shape[1] != width:
        raise UserError(f"class embeddings of {path} must have {width} numbers, got {table.shape[1]}")
    wnids = imagenet_classes("imagenet1k")
    return Generator(
        name=path.resolve().stem if path.is_file() else path.resolve().name,
        source=str(path),
        resolution=side * autoencoder.downsample,
        latent_shape=(channels, side, side),
        num_classes=N,
        null_class=N,
        cfg_channels=None,
        schedule=schedule if schedule is not None else NoiseSchedule.scaled_linear(1000, 0.0015, 0.0195),
        prediction=prediction,
        defaults=LDM_DEFAULTS,
        class_names=wnids if len(wnids) == N else None,
        licence=_LICENCE,
        autoencoder=autoencoder,
        network=network,
    )
