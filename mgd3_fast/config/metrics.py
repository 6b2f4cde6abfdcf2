"""What a measurement is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_folder
from mgd3_fast.config.documented import documented
from mgd3_fast.config.encode import EncodeConfig
from mgd3_fast.config.fields import argument, folders_of, option, place, seed_option, whole
from mgd3_fast.errors import UserError

INPUT_RANGES = ("imagenet", "symmetric", "unit", "byte")
FEATURES = ("latents", "pixels")


@documented
@dataclass(frozen=True, kw_only=True)
class MetricsConfig(EncodeConfig):
    """What `measure` is asked to do."""

    folders: tuple[Path | str, ...] = argument(
        "distilled folders, or their URLs", metavar="DIR", nargs="+", parse=folders_of
    )
    features: str = option(
        "where distances are taken: latents of the generator's autoencoder, pixels, or the output of an"
        " ONNX network given by its file",
        default="latents",
        metavar="latents|pixels|FILE.onnx",
    )
    input_range: str = option(
        "what an ONNX network wants: imagenet (mean and deviation taken off), symmetric (-1..1), unit (0..1)"
        " or byte (0..255)",
        default="imagenet",
        choices=INPUT_RANGES,
    )
    resolution: int | None = whole(
        "side of the images in pixels (default: the generator's)", default=None, metavar="PX"
    )
    ipc: int | None = whole("use only the first N images of each class, by name (default: all)", default=None)
    real_images: int | None = whole(
        "use at most N real images of each class, evenly spread (default: all)", default=None
    )
    nearest: int = whole("real images that representativeness is a mean over", default=50)
    neighbours: int = whole("real neighbours that a ball of coverage and density reaches", default=5)
    tsne: str = option(
        "map each class with t-SNE, as the paper does; off leaves out what is measured on the map",
        default="on",
        choices=("on", "off"),
    )
    tsne_pca: str = option(
        "reduce features to 50 principal components before t-SNE; off takes them as they are, and longer",
        default="on",
        choices=("on", "off"),
    )
    seed: int = seed_option("seed of the t-SNE maps")
    out: Path | str | None = option(
        "folder for metrics.json and, with --plot, pictures; or the .json file itself, pictures beside it"
        " (default: nothing is written)",
        default=None,
        parse=place,
        metavar="PATH",
        check=lambda name, out: check_folder(name, out, ".json"),
    )
    plot: str = option("draw the maps and scores into --out", default="off", choices=("on", "off"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folders:
            raise UserError("folders must name at least one distilled folder, got none")
        if self.features not in FEATURES and Path(self.features).suffix != ".onnx":
            raise UserError(
                f"features must be latents, pixels or the path of an .onnx file, got {self.features!r}"
            )
        if self.plot == "on" and self.out is None:
            raise UserError("out must be given with --plot on, got none")
        if self.plot == "on" and self.tsne == "off":
            raise UserError("tsne must be on with --plot on, got off")
        if self.tsne_pca == "off" and self.tsne == "off":
            raise UserError("tsne_pca must be left out with --tsne off, got off")
