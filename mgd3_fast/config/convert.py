"""What a conversion is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mgd3_fast.config.checks import check_folder, check_options
from mgd3_fast.config.distill import FORMATS
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import argument, background_option, fit_option, option, whole
from mgd3_fast.errors import UserError

CONVERTED_FORMATS = ("tensor", "parquet", "webdataset")  # what `distill` makes beside its folders of images
DTYPES = ("float32", "uint8")
NORMALISATIONS = ("auto", "imagenet", "mnist5k", "none")
TENSOR_FILES = ("both", "safetensors", "pt")
DEFAULT_SHARD_MIB = 256
LARGEST_SHARD_MIB = 65536

_CONCERNS = {
    "size": ("tensor",),
    "background": ("tensor",),
    "fit": ("tensor",),
    "dtype": ("tensor",),
    "normalisation": ("tensor",),
    "tensor_file": ("tensor",),
    "shard_mib": ("parquet", "webdataset"),
}
_FRAMING = ("background", "fit")  # told only where given, so that earlier conversions are found again


@documented
@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What `convert` is asked to do: a folder of images, and the format it is wanted in."""

    src: Path | str = argument(
        "folder that distill wrote or its URL, or any folder of class folders", metavar="SRC"
    )
    out: Path | str = argument("folder that receives the result", metavar="OUT", check=check_folder)
    format: str = option("what OUT is to be", choices=FORMATS)
    dataset: str | None = option(
        "name or path of the dataset whose class list gives the labels, for a SRC without manifest.json",
        default=None,
        metavar="NAME|PATH",
    )
    size: int | None = whole(
        "tensor: side that images are resized and centre-cropped to (default: their own)",
        default=None,
        highest=8192,
    )
    background: str | None = background_option()
    fit: str | None = fit_option()
    dtype: str = option("tensor: number format; uint8 is not normalised", default="float32", choices=DTYPES)
    normalisation: str = option(
        "tensor: mean and standard deviation; auto is mnist5k's own for mnist5k, else ImageNet's",
        default="auto",
        choices=NORMALISATIONS,
    )
    tensor_file: str = option(
        "tensor: images.safetensors, images.pt and labels.pt, or both", default="both", choices=TENSOR_FILES
    )
    shard_mib: int = whole(
        "parquet, webdataset: MiB of images per file", default=DEFAULT_SHARD_MIB, highest=LARGEST_SHARD_MIB
    )

    def __post_init__(self) -> None:
        check_options(self)
        defaults = {one.name: one.default for one in fields(self)}
        for name, formats in _CONCERNS.items():
            if self.format not in formats and getattr(self, name) != defaults[name]:
                raise UserError(
                    f"{name} must be left out unless format is {' or '.join(formats)},"
                    f" got format {self.format}"
                )
        if self.fit is not None and self.size is None:
            raise UserError(f"fit must come with size, got {self.fit!r} alone")
        if self.dtype == "uint8" and self.normalisation not in ("auto", "none"):
            raise UserError(f"normalisation must be none for dtype uint8, got {self.normalisation!r}")

    def options(self) -> dict[str, str | int | None]:
        """Name what decides the files besides the images: the format and what concerns it."""
        concerning = [name for name, formats in _CONCERNS.items() if self.format in formats]
        told = [name for name in concerning if name not in _FRAMING or getattr(self, name) is not None]
        return {"format": self.format, **{name: getattr(self, name) for name in told}}
