"""What a training run is asked to do: a frozen configuration, checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mgd3_fast.config.encode import ON_BAD_IMAGE
from mgd3_fast.config.fields import LARGEST_SEED, check_number, check_options, check_whole, option
from mgd3_fast.errors import UserError

# Stand here and not beside their code, which needs torch: the command line reads them for its help.
AUGMENTATIONS = ("none", "flip", "shift", "affine")
PARTS = ("vae", "dit", "both")
SCHEDULES = ("constant", "cosine")
TRAIN_PRECISIONS = ("auto", "fp32", "bf16")
STORED_PRECISIONS = ("fp32", "fp16", "bf16")
CUSTOM_MODEL = "custom"


def widths(text: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas."""
    return tuple(int(part) for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything `train` is asked to do.

    Raises:
        UserError: If a field is out of range; the message names the field, the rule and the value.
    """

    dataset: str = option(
        "mnist5k, an ImageNet subset's name as for distill, or the path of a folder of class folders",
        metavar="NAME|PATH",
    )
    data_dir: Path | str | None = option(
        "ILSVRC tree of the imagenet names (default: $IMAGENET_DIR)", default=None, parse=Path, metavar="PATH"
    )
    classes: str | None = option(
        "only these classes: names separated by commas (default: all)", default=None, metavar="NAMES"
    )
    out: Path | str = option("generator folder that is written", parse=Path, metavar="PATH")
    part: str = option(
        "train the autoencoder, the DiT, or one after the other", default="both", choices=PARTS
    )
    init: str | None = option(
        "generator to fine-tune: a name, folder, checkpoint file or hub id; sizes and class ids are its own",
        default=None,
        metavar="NAME|PATH|ID",
    )
    generator_classes: Path | str | None = option(
        "file of the class names of --init, line k being id k (default: what lies beside it)",
        default=None,
        parse=Path,
        metavar="FILE",
    )
    generator_heads: int | None = option(
        "attention heads of --init, a DiT's file of unpublished width (default: what lies beside it)",
        default=None,
        parse=int,
        metavar="N",
    )
    vae: str | None = option(
        "autoencoder that the DiT is trained on (default: that of --init, or the one in --out)",
        default=None,
        metavar="PATH|ID",
    )
    resolution: int | None = option(
        "side of the training images in pixels (default: --init's; 32 for mnist5k, else 256)",
        default=None,
        parse=int,
        metavar="PX",
    )
    augment: str = option("random change of each training image", default="none", choices=AUGMENTATIONS)
    augment_copies: int = option(
        "changed copies of each image that the DiT sees beside the image itself (with --augment)",
        default=1,
        parse=int,
        metavar="N",
    )

    model: str = option(
        "custom, whose size the next four options give, or a published size such as DiT-S/2",
        default=CUSTOM_MODEL,
        metavar="NAME",
    )
    hidden: int = option("width of a custom DiT", default=384, parse=int, metavar="N")
    depth: int = option("blocks of a custom DiT", default=12, parse=int, metavar="N")
    heads: int = option("attention heads of a custom DiT", default=6, parse=int, metavar="N")
    patch: int = option("latent pixels a side of a custom DiT's patch", default=2, parse=int, metavar="N")
    variance: str = option(
        "learned predicts the variance of each step as well", default="learned", choices=("learned", "fixed")
    )
    epochs: float | None = option(
        "passes over the images, instead of --steps", default=None, parse=float, metavar="X"
    )
    steps: int | None = option("optimiser steps of the DiT", default=None, parse=int, metavar="N")
    batch_size: int = option("images of a step of the DiT", default=128, parse=int, metavar="N")
    lr: float = option("highest learning rate of the DiT", default=1e-4, parse=float, metavar="X")
    weight_decay: float = option("AdamW's weight decay", default=0.0, parse=float, metavar="X")
    schedule: str = option("learning rate after the warm-up", default="constant", choices=SCHEDULES)
    warmup: int = option("steps over which the learning rate rises", default=0, parse=int, metavar="N")
    ema: float = option(
        "decay of the averaged weights, which are what is kept", default=0.9999, parse=float, metavar="X"
    )
    clip_grad: float | None = option(
        "largest norm of the gradient (default: not clipped)", default=None, parse=float, metavar="X"
    )
    label_dropout: float = option(
        "share of labels replaced by the null class, for classifier-free guidance",
        default=0.1,
        parse=float,
        metavar="X",
    )

    vae_channels: tuple[int, ...] = option(
        "channels of the autoencoder's blocks; each block but the last halves the size",
        default=(128, 256, 512, 512),
        parse=widths,
        metavar="N,N,..",
    )
    vae_layers: int = option("residual layers of an encoder block", default=2, parse=int, metavar="N")
    vae_attention: str = option(
        "self-attention between encoder and latent", default="middle", choices=("middle", "none")
    )
    latent_channels: int = option("channels of a latent", default=4, parse=int, metavar="N")
    vae_loss: str = option("reconstruction error", default="l1", choices=("l1", "mse"))
    kl_weight: float = option(
        "weight of the divergence from a unit normal, per latent value",
        default=1e-4,
        parse=float,
        metavar="X",
    )
    vae_steps: int | None = option(
        "optimiser steps of the autoencoder (default: --epochs, or --steps)",
        default=None,
        parse=int,
        metavar="N",
    )
    vae_batch_size: int = option("images of a step of the autoencoder", default=32, parse=int, metavar="N")
    vae_lr: float = option("highest learning rate of the autoencoder", default=1e-4, parse=float, metavar="X")
    vae_ema: float = option(
        "decay of the autoencoder's averaged weights", default=0.999, parse=float, metavar="X"
    )

    seed: int = option("seed of starting weights, order and noise", default=0, parse=int, metavar="N")
    device: str = option("auto, cpu, cuda or cuda:N", default="auto", metavar="NAME")
    precision: str = option(
        "fp32, or bf16 autocast; auto is bf16 on a GPU that has it", default="auto", choices=TRAIN_PRECISIONS
    )
    checkpoint_every: int = option("steps between checkpoints", default=1000, parse=int, metavar="N")
    cache_dir: Path | str | None = option(
        "where latents are kept for later runs (default: $MGD3_CACHE or ~/.cache/mgd3-fast)",
        default=None,
        parse=Path,
        metavar="PATH",
    )
    on_bad_image: str = option(
        "what to do about an image that cannot be read", default="error", choices=ON_BAD_IMAGE
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
    cfg_scale: float | None = option(
        "classifier-free guidance that the result is sampled with by default (default: --init's, else 4.0)",
        default=None,
        parse=float,
        metavar="X",
    )
    mode_scale: float | None = option(
        "likewise strength of mode guidance (default: --init's, else 0.1)",
        default=None,
        parse=float,
        metavar="X",
    )
    t_stop: int | None = option(
        "likewise the step that guidance stops at (default: --init's, else 25)",
        default=None,
        parse=int,
        metavar="N",
    )

    def __post_init__(self) -> None:
        check_options(self)
        self._check_counts()
        self._check_numbers()
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if self.part != "vae" and (self.epochs is None) == (self.steps is None):
            raise UserError("exactly one of epochs and steps must be given")
        if self.part == "vae" and self.epochs is None and self.steps is None and self.vae_steps is None:
            raise UserError("one of epochs, steps and vae_steps must be given for part vae")
        if self.part != "dit" and self.vae is not None:
            raise UserError(
                f"vae must be left out unless part is dit, got {self.vae!r} with part {self.part}"
            )

    def _check_counts(self) -> None:
        for name in ("hidden", "depth", "heads", "patch", "batch_size", "vae_layers", "latent_channels"):
            check_whole(name, getattr(self, name), 1)
        for name in ("vae_batch_size", "augment_copies", "checkpoint_every"):
            check_whole(name, getattr(self, name), 1)
        for name in ("steps", "vae_steps", "resolution", "generator_heads"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        check_whole("warmup", self.warmup, 0)
        check_whole("seed", self.seed, 0, LARGEST_SEED)
        if not isinstance(self.vae_channels, tuple) or not self.vae_channels:
            raise UserError(f"vae_channels must be whole numbers as in 32,64,64, got {self.vae_channels!r}")
        for width in self.vae_channels:
            check_whole("vae_channels", width, 2)
        if self.model == CUSTOM_MODEL and (self.hidden % self.heads or self.hidden % 4):
            raise UserError(f"hidden must be a multiple of 4 and of heads {self.heads}, got {self.hidden}")

    def _check_numbers(self) -> None:
        for name in ("lr", "vae_lr", "clip_grad", "epochs"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, 0.0)
                if value == 0:
                    raise UserError(f"{name} must be above 0, got {value}")
        for name in ("weight_decay", "kl_weight", "cfg_scale", "mode_scale"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.0)
        if self.t_stop is not None:
            check_whole("t_stop", self.t_stop, 0)
        for name in ("ema", "vae_ema", "label_dropout"):
            check_number(name, getattr(self, name), 0.0, 1.0)

    def recipe(self) -> dict[str, Any]:
        """What a reader needs to train the same again.

        Returns:
            Every field that differs from its default, with paths of this machine cut to their last part.
        """
        changed = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in ("out", "data_dir", "cache_dir", "device")
            and getattr(self, one.name) != one.default
        }
        return {name: _portable(value) for name, value in changed.items()}


def _portable(value: Any) -> Any:
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return Path(value).name
    return list(value) if isinstance(value, tuple) else value


def identity(config: TrainConfig, part: str) -> Mapping[str, Any]:
    """The fields that decide the weights of one part: a run is resumed only if these are the same.

    Args:
        config: The run.
        part: "vae" or "dit".

    Returns:
        JSON values by field name.
    """
    common = {"dataset", "classes", "init", "resolution", "augment", "seed", "precision", "on_bad_image"}
    training = {"weight_decay", "schedule", "warmup", "clip_grad", "epochs", "steps"}
    vae = {"vae_channels", "vae_layers", "vae_attention", "latent_channels", "vae_loss", "kl_weight"}
    vae |= {"vae_steps", "vae_batch_size", "vae_lr", "vae_ema"}
    dit = {"vae", "augment_copies", "model", "hidden", "depth", "heads", "patch", "variance"}
    dit |= {"batch_size", "lr", "ema", "label_dropout"}
    if part == "vae" and config.vae_steps is not None:
        training -= {"epochs", "steps"}
    names = common | training | (vae if part == "vae" else dit)
    return {name: _portable(getattr(config, name)) for name in sorted(names)}
