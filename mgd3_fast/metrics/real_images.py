"""Features of the real images of a class, from the latent store or by reading the images.

Shape letters: n real images of a class, R pixels a side, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgd3_fast.config.metrics import MetricsConfig
from mgd3_fast.datasets import (
    Dataset,
    center_crop,
    image_batches,
)
from mgd3_fast.errors import UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.latents import encode_dataset
from mgd3_fast.metrics.features import FeatureSpace, LatentSpace, OnnxSpace, PixelSpace
from mgd3_fast.progress import Progress
from mgd3_fast.run.sources import open_sources, open_training_images
from mgd3_fast.writers.labelled import LabelledImage

_ROWS = 64

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """A dataset and the space that its images and synthetic ones are compared in.

    Args:
        dataset: The classes.
        space: Turns images into points.
        resolution: R.
        real: Features `[n, D]` of the class at a place of the dataset.
        settings: What decides the features, for the result.
    """

    dataset: Dataset
    space: FeatureSpace
    resolution: int
    real: Callable[[int], Features]
    settings: dict[str, Any]

    def of_images(self, images: Sequence[LabelledImage]) -> Features:
        """Features of image files, cut as the real ones are.

        Args:
            images: At least one.

        Returns:
            `[len(images), D]`.

        Raises:
            UserError: A file is damaged.
        """
        parts = []
        for start in range(0, len(images), _ROWS):
            pixels = [self._pixels(image) for image in images[start : start + _ROWS]]
            parts.append(self.space.features(torch.from_numpy(np.stack(pixels))))
        return np.concatenate(parts)

    def _pixels(self, image: LabelledImage) -> NDArray[np.uint8]:
        cropped = center_crop(image.load(), self.resolution)
        pixels: NDArray[np.uint8] = np.asarray(cropped).transpose(2, 0, 1)  # [3, R, R]
        return pixels


def open_comparison(config: MetricsConfig, progress: Progress) -> Comparison:
    """Open the dataset and what turns its images into features; latents that are missing are encoded.

    Args:
        config: What to compare by.
        progress: Receives bars and notes.

    Returns:
        The comparison.

    Raises:
        UserError: Something named does not exist or does not fit.
    """
    if config.features == "latents":
        return _by_latents(config, progress)
    dataset = open_training_images(config, progress)
    R = config.resolution or load_generator(config.generator, dataset_name=dataset.name).resolution
    space: FeatureSpace = PixelSpace()
    settings: dict[str, Any] = {"features": config.features, "resolution": R}
    if config.features != "pixels":
        space = OnnxSpace(Path(config.features), config.input_range)
        settings["input_range"] = config.input_range

    def real(place: int) -> Features:
        batches = image_batches(dataset, place, R, _ROWS, config.on_bad_image)
        return np.concatenate([space.features(batch.images) for batch in batches])

    return Comparison(dataset, space, R, real, settings)


def _by_latents(config: MetricsConfig, progress: Progress) -> Comparison:
    sources = open_sources(config, progress)
    generator, store = sources.generator, sources.store
    if config.resolution not in (None, generator.resolution):
        raise UserError(
            f"resolution must be {generator.resolution} for the latents of {generator.name},"
            f" got {config.resolution}"
        )
    encode_dataset(
        sources.dataset,
        generator.autoencoder,
        store,
        device=sources.device,
        on_bad_image=config.on_bad_image,
        progress=progress,
    )
    autoencoder = generator.autoencoder.to(sources.device, store.dtype)

    def real(place: int) -> Features:
        found = store.open(sources.dataset.classes[place])
        if found is None:
            raise UserError(
                f"latents of class {sources.dataset.classes[place].name} must stay during a run, got deleted"
            )
        latents: Features = found.latents.flatten(1).float().numpy()
        return latents

    settings = {
        "features": "latents",
        "resolution": generator.resolution,
        "autoencoder_digest": generator.autoencoder.digest,
    }
    space = LatentSpace(autoencoder, sources.device)
    return Comparison(sources.dataset, space, generator.resolution, real, settings)
