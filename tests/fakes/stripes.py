"""Classes that a small classifier learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("ant", "bee", "cow")


def write_images(folder: Path, label: int, count: int, seed: int, side: int = 16) -> None:
    """Noise over faint stripes whose direction is the class; colours would be lost on instance norm."""
    folder.mkdir(parents=True)
    source = np.random.default_rng([seed, label])
    places = np.indices((side, side))
    stripes = (places[0], places[1], places.sum(0))[label] % 4 < 2
    for number in range(count):
        pixels = source.integers(0, 120, (side, side, 3), dtype=np.uint8) + 120 * stripes[..., None].astype(
            np.uint8
        )
        Image.fromarray(pixels).save(folder / f"{number}.png")
