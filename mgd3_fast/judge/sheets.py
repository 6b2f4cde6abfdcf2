"""Sheets of pictures that tell how good a generator is: samples, and reconstructions beside originals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.writers import write_image_sheet

SAMPLES, RECONSTRUCTIONS = "samples.png", "reconstructions.png"


def write_samples(target: Path, names: Sequence[str], samples: ImageSet) -> None:
    """Write a row of samples for each class, labelled by its place in `names`."""
    rows = [(name, samples.pixels[samples.labels == place].numpy()) for place, name in enumerate(names)]
    write_image_sheet(target, rows)


def write_reconstructions(target: Path, names: Sequence[str], images: ImageSet, decoded: Tensor) -> None:
    """Write a row for each class: every image, and at its right what an autoencoder makes of it."""
    pairs = torch.stack([images.pixels, decoded], 1).numpy()  # [N, 2, 3, R, R]
    rows = [(name, np.concatenate(pairs[images.labels == place])) for place, name in enumerate(names)]
    write_image_sheet(target, rows)
