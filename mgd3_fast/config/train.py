"""What a training run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mgd3_fast.config.checks import check_options, check_whole
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import (
    background_option,
    bad_image_option,
    cache_option,
    classes_option,
    data_dir_option,
    device_option,
    fit_option,
    folder,
    heads_option,
    number,
    option,
    path,
    seed_option,
    split_option,
    whole,
    wholes_of,
)
from mgd3_fast.errors import UserError

# Stand here and not beside their code, which needs torch: the command line reads them for its help.
AUGMENTATIONS = ("none", "flip", "shift", "affine")
PARTS = ("vae", "dit", "both")
SCHEDULES = ("constant", "cosine")
TRAIN_PRECISIONS = ("auto", "fp32", "bf16")
STORED_PRECISIONS = ("fp32", "fp16", "bf16")
PRESETS = ("auto", "small", "large")
CUSTOM_MODEL = "custom"

# Fields that decide the weights of both parts, of the autoencoder, of the DiT; and how it is sampled.
_COMMON = {"dataset", "classes", "init", "resolution", "augment", "seed", "precision", "on_bad_image"}
DESCENT = {"weight_decay", "schedule", "warmup", "clip_grad"}
_COMMON |= {"split", *DESCENT}
_VAE = {"vae_channels", "vae_layers", "vae_attention", "latent_channels", "vae_loss", "kl_weight"}
_VAE |= {"vae_batch_size", "vae_lr", "vae_ema"}
_DIT = {"vae", "augment_copies", "model", "hidden", "depth", "heads", "patch", "variance"}
_DIT |= {"batch_size", "lr", "ema", "label_dropout"}
_GUIDANCE = {"cfg_scale", "mode_scale", "t_stop"}


def _check_widths(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not value:
        raise UserError(f"{name} must be whole numbers as in 32,64,64, got {value!r}")
    for width in value:
        check_whole(name, width, 2)


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `train_generator` is asked to do.

    A field whose default is None is left open. Before training starts it is filled from `init`, the preset,
    the images, the device, and what the folder was begun with.
    """

    dataset: str = option(
        "mnist5k, an ImageNet subset's name as for distill, the path of a folder of class folders, hf:... or"
        " wds:...",
        metavar="NAME|PATH|hf:...|wds:...",
    )
    data_dir: Path | str | None = data_dir_option()
    classes: str | None = classes_option()
    split: str = split_option()
    out: Path | str = folder("generator folder that is written")
    part: str = option(
        "train the autoencoder, the DiT, or one after the other", default="both", choices=PARTS
    )
    preset: str = option(
        "what every size, rate and number of steps is that is not given: small fits a processor, large a GPU;"
        " auto is the one for the device (docs/training.md has the table)",
        default="auto",
        choices=PRESETS,
    )
    init: str | None = option(
        "generator to fine-tune: a name, folder, checkpoint file or hub id; sizes and class ids are its own",
        default=None,
        metavar="NAME|PATH|ID",
    )
    generator_classes: Path | str | None = path(
        "file of the class names of --init, line k being id k (default: what lies beside it)",
        default=None,
        metavar="FILE",
    )
    generator_heads: int | None = heads_option("--init, ")
    vae: str | None = option(
        "autoencoder that the DiT is trained on (default: that of --init, or the one in --out)",
        default=None,
        metavar="PATH|ID",
    )
    resolution: int = whole(
        "side of the training images in pixels (default: that of --init or of the autoencoder; else what the"
        " images and the preset allow)",
        default=None,
        metavar="PX",
    )
    augment: str = option("random change of each training image", default="none", choices=AUGMENTATIONS)
    augment_copies: int = whole(
        "changed copies of each image that the DiT sees beside the image itself (with --augment)", default=1
    )

    model: str = option(
        "custom, whose size the next four options give, or a published size such as DiT-S/2",
        default=CUSTOM_MODEL,
        metavar="NAME",
    )
    hidden: int = whole("width of a custom DiT (default: the preset's)", default=None)
    depth: int = whole("blocks of a custom DiT (default: the preset's)", default=None)
    heads: int = whole("attention heads of a custom DiT (default: what the width allows)", default=None)
    patch: int = whole("latent pixels a side of a custom DiT's patch (default: the preset's)", default=None)
    variance: str = option(
        "learned predicts the variance of each step as well", default="learned", choices=("learned", "fixed")
    )
    epochs: float | None = number("passes over the images, instead of --steps", default=None, above_zero=True)
    steps: int | None = whole("optimiser steps of the DiT (default: the preset's)", default=None)
    batch_size: int = whole("images of a step of the DiT (default: the preset's)", default=None)
    lr: float = number(
        "highest learning rate of the DiT (default: the preset's)", default=None, above_zero=True
    )
    weight_decay: float = number("AdamW's weight decay", default=0.0)
    schedule: str = option(
        "learning rate after the warm-up (default: the preset's)", default=None, choices=SCHEDULES
    )
    warmup: int = whole(
        "steps over which the learning rate rises (default: the preset's)", default=None, lowest=0
    )
    ema: float = number(
        "decay of the averaged weights, which are what is kept (default: what fits the steps)",
        default=None,
        highest=1.0,
    )
    clip_grad: float | None = number(
        "largest norm of the gradient (default: the preset's)", default=None, above_zero=True
    )
    label_dropout: float = number(
        "share of labels replaced by the null class, for classifier-free guidance", default=0.1, highest=1.0
    )

    vae_channels: tuple[int, ...] = option(
        "channels of the autoencoder's blocks; each block but the last halves the size (default: what the"
        " preset and the pixels ask for)",
        default=None,
        parse=wholes_of,
        metavar="N,N,..",
        check=_check_widths,
    )
    vae_layers: int = whole("residual layers of an encoder block (default: the preset's)", default=None)
    vae_attention: str = option(
        "self-attention between encoder and latent (default: the preset's)",
        default=None,
        choices=("middle", "none"),
    )
    latent_channels: int = whole("channels of a latent", default=4)
    vae_loss: str = option("reconstruction error", default="l1", choices=("l1", "mse"))
    kl_weight: float = number(
        "weight of the divergence from a unit normal, per latent value (default: the preset's)", default=None
    )
    vae_steps: int | None = whole(
        "optimiser steps of the autoencoder (default: --epochs, or --steps, or the preset's)", default=None
    )
    vae_batch_size: int = whole("images of a step of the autoencoder (default: the preset's)", default=None)
    vae_lr: float = number(
        "highest learning rate of the autoencoder (default: the preset's)", default=None, above_zero=True
    )
    vae_ema: float = number(
        "decay of the autoencoder's averaged weights (default: what fits the steps)",
        default=None,
        highest=1.0,
    )

    seed: int = seed_option("seed of starting weights, order and noise")
    device: str = device_option()
    precision: str = option(
        "fp32, or bf16 autocast; auto is bf16 on a GPU that has it", default="auto", choices=TRAIN_PRECISIONS
    )
    checkpoint_every: int = whole("steps between checkpoints", default=1000)
    cache_dir: Path | str | None = cache_option()
    background: str | None = background_option("what --init records, else ")
    fit: str | None = fit_option("what --init records, else ")
    on_bad_image: str = bad_image_option()
    sample_sheets: int = whole(
        "sheets of samples that are drawn while the DiT is trained, at most; 0 is none", default=8, lowest=0
    )
    judge: str = option(
        "say at the end how good the generator is, see `mgd3-fast judge`", default="on", choices=("on", "off")
    )
    stored_precision: str = option(
        "number format of the weights in the result", default="fp32", choices=STORED_PRECISIONS
    )
    name: str | None = option("short name of the result (default: that of its folder)", default=None)
    licence: str | None = option(
        "licence of the result's weights (default: that of --init, else not stated)",
        default=None,
        metavar="TEXT",
    )
    cfg_scale: float | None = number(
        "classifier-free guidance that the result is sampled with by default (default: --init's, else 4.0)",
        default=None,
    )
    mode_scale: float | None = number(
        "strength of mode guidance that the result is sampled with by default (default: --init's, else 0.1)",
        default=None,
    )
    t_stop: int | None = whole(
        "step that mode guidance stops at by default (default: --init's, else 25)", default=None, lowest=0
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.model == CUSTOM_MODEL and self.hidden is not None:
            heads = "" if self.heads is None else f" and of heads {self.heads}"
            if self.hidden % 4 or self.hidden % (self.heads or 1):
                raise UserError(f"hidden must be a multiple of 4{heads}, got {self.hidden}")
        if self.part != "vae" and self.epochs is not None and self.steps is not None:
            raise UserError(
                f"at most one of epochs and steps must be given, got {self.epochs:g} and {self.steps}"
            )
        for name in ("generator_classes", "generator_heads"):
            if self.init is None and getattr(self, name) is not None:
                raise UserError(
                    f"{name} must come with --init, which it is about, got {getattr(self, name)} alone"
                )
        if self.part != "dit" and self.vae is not None:
            raise UserError(
                f"vae must be left out unless part is dit, got {self.vae!r} with part {self.part}"
            )

    def recipe(self) -> dict[str, Any]:
        """What a reader needs to train the same again.

        Every field that differs from its default, with paths of this machine cut to their last part.
        """
        changed = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in ("out", "data_dir", "cache_dir", "device", "sample_sheets", "judge")
            and getattr(self, one.name) != one.default
        }
        return {name: _portable(value) for name, value in changed.items()}


def _portable(value: Any) -> Any:
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return Path(value).name
    return list(value) if isinstance(value, tuple) else value


def fields_of(part: str) -> set[str]:
    """Names of the fields that one part, "vae" or "dit", or with "both" either of them, goes by."""
    of_parts = {"vae": _COMMON | _VAE | {"vae_steps"}, "dit": _COMMON | _DIT | {"steps", *_GUIDANCE}}
    return of_parts["vae"] | of_parts["dit"] if part == "both" else of_parts[part]


def identity(config: TrainConfig, part: str) -> Mapping[str, Any]:
    """The fields that decide the weights of one part, "vae" or "dit", as JSON values by name.

    A run goes on only if these are the same. How many steps it has is not among them: it can be made longer
    or shorter.
    """
    names = _COMMON | (_VAE if part == "vae" else _DIT)
    return {name: _portable(getattr(config, name)) for name in sorted(names)}
