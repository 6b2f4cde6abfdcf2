"""What the encode stage is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_options
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import (
    background_option,
    bad_image_option,
    cache_option,
    classes_option,
    device_option,
    fit_option,
    option,
    path,
    split_option,
)
from mgd3_fast.config.sharding import shard_option

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "fp8")
FLIPS = ("none", "random", "both")
STORAGES = ("fp32", "fp16")
POSTERIORS = ("mean", "sample")


@documented
@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Which dataset is encoded, and by the autoencoder of which generator."""

    dataset: str = option(
        "mnist5k, imagenet1k, imagenet100, imagenette, imagewoof, imageidc, imagenet-a .. imagenet-e,"
        " the path or URL of a folder with one folder of images per class, hf:owner/name[:config][@revision]"
        " (Hugging Face, streamed; also hf:./folder of parquet files), or wds:pattern (WebDataset shards)",
        metavar="NAME|PATH|hf:...|wds:...",
    )
    data_dir: Path | str | None = path(
        "ILSVRC tree that the imagenet names are class lists over, its URL, or the folder of its tar files as"
        " downloaded (default: $IMAGENET_DIR)",
        default=None,
        on_store=True,
    )
    classes: str | None = classes_option()
    split: str = split_option()
    generator: str = option(
        "auto (demo-mnist5k for mnist5k, else dit-xl-2-256), demo-mnist5k, dit-xl-2-256, dit-xl-2-512,"
        " stable-diffusion-1-5, a checkpoint file, a generator folder, a diffusers folder or a hub id",
        default="auto",
        metavar="NAME|PATH|ID",
    )
    vae: str | None = option(
        "another autoencoder than the generator's own: a diffusers folder or hub id",
        default=None,
        metavar="PATH|ID",
    )
    background: str | None = background_option("what the generator, or a distilled folder, records; else ")
    fit: str | None = fit_option("what the generator, or a distilled folder, records; else ")
    on_bad_image: str = bad_image_option()
    precision: str = option(
        "number format of the networks; auto is fp32 on a CPU, bf16 on a GPU that has it; fp8 is bf16 with"
        " 8-bit linear maps in the blocks of a DiT, for GPUs of capability 8.9 and later",
        default="auto",
        choices=PRECISIONS,
    )
    device: str = device_option()
    cache_dir: Path | str | None = cache_option()
    flip: str = option(
        "mirror images before they are encoded: random mirrors half of them, the same half in every run;"
        " both keeps each image and its mirror image",
        default="none",
        choices=FLIPS,
    )
    posterior: str | None = option(
        "what of the encoder's distribution is the latent of an image: its mean, or a sample, drawn once for"
        " each image (default: mean)",
        default=None,
        choices=POSTERIORS,
    )
    storage: str = option(
        "number format of latents on disk; fp16 takes half the room", default="fp32", choices=STORAGES
    )

    def __post_init__(self) -> None:
        check_options(self)


@documented
@dataclass(frozen=True, kw_only=True)
class EncodeShareConfig(EncodeConfig):
    """What the encode command is asked to do."""

    shard: str = shard_option(
        "encode the I-th of N parts of the classes, or of a stream's shards; parts may run at the same time,"
        " on any machines, into one --cache-dir"
    )
