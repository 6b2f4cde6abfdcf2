"""What the discover stage is asked to do, and how its modes are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_folder
from mgd3_fast.config.documented import documented
from mgd3_fast.config.encode import EncodeConfig
from mgd3_fast.config.fields import option, place, seed_option, whole
from mgd3_fast.errors import UserError

DISCOVERIES = ("kmeans", "kmeans-closest", "kmeans-pooled", "gmm", "gmm-pca", "dbscan", "spectral", "random")
PROJECTIONS = ("tsne", "pca")
BESIDE_THE_MODES = "auto"
KMEANS_RUNNERS = ("auto", "sklearn", "cuml", "triton")


@documented
@dataclass(frozen=True, kw_only=True)
class DiscoverConfig(EncodeConfig):
    """What `discover` is asked to do: how many modes of each class, found how, written where."""

    ipc: int = whole("images per class, and so modes per class")
    out: Path | str = option(
        "folder that receives modes.safetensors, or the file itself, ending in .safetensors",
        parse=place,
        metavar="PATH",
        check=lambda name, out: check_folder(name, out, ".safetensors"),
    )
    discovery: str = option("how modes are found in the latents", default="kmeans", choices=DISCOVERIES)
    kmeans: str = option(
        "what runs K-means; auto is triton (all classes at once) on a GPU, else sklearn; their modes differ",
        default="auto",
        choices=KMEANS_RUNNERS,
    )
    seed: int = seed_option("seed of the run: of the modes and of every image")
    discovery_seed: int | None = seed_option(
        "seed of the modes alone, so that one set of them serves several seeds of noise; MGD3's own code"
        " always takes 0 (default: that of the modes that are given, else --seed)",
        default=None,
    )


@documented
@dataclass(frozen=True, kw_only=True)
class DiscoverAndPlotConfig(DiscoverConfig):
    """What the discover command is asked to do: modes, and pictures of them."""

    plot: Path | str | None = option(
        "draw a map of each class with its modes, and the images nearest to them, into this folder"
        " (without PATH: mode-plots beside the modes); needs matplotlib",
        default=None,
        parse=place,
        metavar="PATH",
        check=check_folder,
        nargs="?",
        const=BESIDE_THE_MODES,
    )
    projection: str = option(
        "plane that --plot maps latents and modes to; tsne takes seconds a class",
        default="tsne",
        choices=PROJECTIONS,
    )
    plot_classes: str | None = option(
        "classes that --plot draws, as for --classes (default: the first 10)", default=None, metavar="NAMES"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plot is None and (self.projection != "tsne" or self.plot_classes is not None):
            raise UserError("projection and plot_classes must come with plot, got no plot")
