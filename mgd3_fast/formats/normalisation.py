"""Mean and standard deviation of a dataset's pixels, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

from mgd3_fast.writers.labelled import LabelledFolder


@dataclass(frozen=True)
class Normalisation:
    """x <- (x - mean) / std with x in [0, 1].

    Args:
        name: Whose figures they are.
        mean: Of red, green, blue.
        std: Of red, green, blue.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Over all pixels of the 4,000 images of the train split, margins included.
MNIST5K = Normalisation("mnist5k", (0.1002, 0.1002, 0.1002), (0.2752, 0.2752, 0.2752))
NONE = Normalisation("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_BY_NAME = {one.name: one for one in (IMAGENET, MNIST5K, NONE)}


def choose_normalisation(name: str, source: LabelledFolder) -> Normalisation:
    """Look a normalisation up.

    Args:
        name: "auto" or a name.
        source: For "auto": mnist5k has its own; everything else takes ImageNet's, as the papers' code does.

    Returns:
        The figures.
    """
    if name == "auto":
        name = "mnist5k" if source.dataset == "mnist5k" else "imagenet"
    return _BY_NAME[name]
