"""What the discover stage is asked to do, and how its modes are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.encode import EncodeConfig
from mgd3_fast.config.fields import LARGEST_SEED, check_options, option, path, whole

DISCOVERIES = ("kmeans", "kmeans-closest", "kmeans-pooled", "gmm", "gmm-pca", "dbscan", "spectral", "random")
PROJECTIONS = ("tsne", "pca")
KMEANS_RUNNERS = ("auto", "sklearn", "cuml", "triton")


@dataclass(frozen=True, kw_only=True)
class DiscoverConfig(EncodeConfig):
    """What the discover stage needs besides latents: how many modes per class, found how, written where."""

    ipc: int = whole("images per class, and so modes per class")
    out: Path | str = path("folder that receives the result")
    discovery: str = option("how modes are found in the latents", default="kmeans", choices=DISCOVERIES)
    kmeans: str = option(
        "what runs K-means; auto is triton (all classes at once) on a GPU, else sklearn; their modes differ",
        default="auto",
        choices=KMEANS_RUNNERS,
    )
    seed: int = whole(
        "seed of the run: of the modes and of every image", default=0, lowest=0, highest=LARGEST_SEED
    )


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """How the modes of a run are drawn."""

    projection: str = option(
        "plane that --plot maps latents and modes to; tsne takes seconds a class",
        default="tsne",
        choices=PROJECTIONS,
    )
    plot_classes: str | None = option(
        "classes that --plot draws, as for --classes (default: the first 10)", default=None, metavar="NAMES"
    )

    def __post_init__(self) -> None:
        check_options(self)
