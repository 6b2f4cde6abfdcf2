"""Generators of the latent diffusion family: class-conditional U-Nets (Rombach et al. 2022).

Shape letters: R rows of the network's input, C channels and T positions of a block, N classes, E numbers of a
class embedding.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd3_engine import NoiseSchedule
from mgd3_engine.files.digest import weights_digest
from mgd3_engine.files.weights import check_weights, read_model_weights, read_weights
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.datasets.imagenet import imagenet_classes
from mgd3_fast.errors import UserError
from mgd3_fast.generators.autoencoder import open_autoencoder
from mgd3_fast.generators.base import Generator, Network, checked_channels
from mgd3_fast.generators.batched_autoencoder import Autoencoder
from mgd3_fast.generators.hub import ModelFiles, loaded_or_refused
from mgd3_fast.generators.ldm_weights import (
    CLASS_TABLE,
    UNET,
    checked_table,
    class_table,
    original_settings,
    original_unet,
)
from mgd3_fast.generators.trained_schedule import Training, training_of
from mgd3_fast.generators.unet import (
    ContextUNet,
    filled_unet,
    latent_size,
    load_unet,
    placed_unet,
    unet_settings,
)

LDM_DEFAULTS = SamplingDefaults(cfg_scale=3.0)
"""The guidance of the original sampling script; the rest is MGD3's for DiT, which states none for this."""

CIN256 = Training(NoiseSchedule.scaled_linear(1000, 0.0015, 0.0195))
"""What the published `cin256-v2` was trained on."""

CLASS_EMBEDDER = "class_embedder"
"""The folder of a diffusers layout whose weights file holds the class embeddings, as `embedding.weight`."""

_TABLE = "embedding.weight"
_RESOLUTION = 256  # of cin256-v2; a checkpoint file does not tell
_LICENCE = "not stated; CompVis' repository is under the MIT licence"


class ClassUNet(Network):
    """A U-Net and its class embeddings (Rombach et al. 2022, section 3.3).

    `load` loads diffusers' `UNet2DConditionModel` and the float `[N + 1, E]` table, the null class last.
    """

    def __init__(self, load: Callable[[], tuple[Any, Tensor]]) -> None:
        self._load = load

    @cached_property
    def _loaded(self) -> tuple[Any, Tensor]:
        return self._load()

    def digest(self) -> str:
        """sha256 of the weights and of what else decides the output, whatever file layout they came in."""
        unet, table = self._loaded
        weights = {**unet.state_dict(), "class_embedding_table": table}
        return weights_digest(weights, f"LDM {json.dumps(_uncommon_settings(unet.config), sort_keys=True)}")

    def _place(self, device: torch.device, dtype: torch.dtype) -> ContextUNet:
        unet, table = self._loaded
        placed = placed_unet(unet, device, dtype)
        for name, module in placed.named_modules():
            if name.endswith(".attn2"):
                module.set_processor(OneTokenAttention())
        return ContextUNet(placed, table[:, None].to(device, dtype))


class OneTokenAttention:
    """Attention to a context of one token, for diffusers' `Attention.set_processor`.

    The softmax over one token is 1 whatever the query, so that every position receives W_o W_v c + b_o: two
    products a row in place of two a position.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **unused: Any
    ) -> Tensor:
        """Compute what each of `[R, T, C]` receives.

        Args:
            attn: diffusers' `Attention`, without norm or residual of its own.
            hidden_states: `[R, T, C]`; not looked at.
            encoder_hidden_states: `[R, 1, E]`.
            unused: What diffusers passes to every processor.

        Returns:
            `[R, 1, C]`, to be added to every position.
        """
        received: Tensor = attn.to_out[0](attn.to_v(encoder_hidden_states))
        return received


def _uncommon_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that are not diffusers' own defaults: a later version's new ones change nothing."""
    from diffusers import UNet2DConditionModel

    defaults = {
        name: json.dumps(parameter.default)
        for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    kept = {name: config[name] for name in defaults if name in config and name != "sample_size"}
    return {name: value for name, value in kept.items() if json.dumps(value) != defaults[name]}


def is_ldm(path: Path) -> bool:
    """Tell what is at an existing path from the other families, by what it holds.

    Raises:
        ValueError: The file is damaged, or holds more than weights.
    """
    if path.is_dir():
        return (path / CLASS_EMBEDDER).is_dir()
    names = read_weights(path)[0]
    return CLASS_TABLE in names and any(name.startswith(UNET) for name in names)


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
        with loaded_or_refused(path, "U-Net"):
            weights = original_unet(path, settings)
            check_weights(weights)
            return filled_unet(settings, weights), class_table(path)

    autoencoder = open_autoencoder(vae or path)
    sized = {**settings, "sample_size": _RESOLUTION // autoencoder.downsample}
    return _generator(path, ClassUNet(load), sized, class_table(path), autoencoder, CIN256)


def _from_folder(path: Path, vae: str | None) -> Generator:
    files = ModelFiles(str(path), _LICENCE)
    return _generator(
        path,
        ClassUNet(lambda: (load_unet(path / "unet"), _table_of(path))),
        unet_settings(files.settings("unet/config.json"), str(path)),
        _table_of(path),
        open_autoencoder(vae or path),
        training_of(files) or CIN256,
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
    training: Training,
) -> Generator:
    channels, side = latent_size(settings, str(path))
    checked_channels(autoencoder, channels, str(path))
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
        schedule=training.schedule,
        prediction=training.prediction,
        defaults=LDM_DEFAULTS,
        class_names=wnids if len(wnids) == N else None,
        licence=_LICENCE,
        autoencoder=autoencoder,
        network=network,
        notes=training.notes,
    )
