"""Features of the images of a class, read from their files or, for real ones, from the latent store.

Shape letters: n real images of a class, m synthetic images of a class, R pixels a side, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgd3_fast.config.metrics import MetricsConfig
from mgd3_fast.datasets import BadImage, Dataset, chosen_framing, image_batches
from mgd3_fast.errors import UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.metrics.features import FeatureSpace, latent_space, onnx_space, pixel_space
from mgd3_fast.progress import Progress
from mgd3_fast.run.sources import note_skipped, open_sources, open_training_images
from mgd3_fast.writers.fetching import local_runs
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage
from mgd3_fast.writers.reader import read_classes, recorded_framings

_ROWS = 64

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """Real and synthetic images, and the space that they are compared in.

    Args:
        dataset: The real images.
        folders: The synthetic ones, of the same classes.
        space: Turns images into points.
        resolution: R.
        real: Features `[n, D]` of the class at a place of the dataset.
        settings: What decides the features, for the result.
        bad_images: Real images that were left out, as far as they were come upon.
    """

    dataset: Dataset
    folders: Sequence[LabelledFolder]
    space: FeatureSpace
    resolution: int
    real: Callable[[int], Features]
    settings: dict[str, Any]
    bad_images: Sequence[BadImage]

    def of_images(self, images: Sequence[LabelledImage]) -> Features:
        """Features `[m, D]` of image files, at least one, cut as the real ones are.

        Raises:
            UserError: A file is damaged.
        """
        parts = []
        for start in range(0, len(images), _ROWS):
            some, framing = images[start : start + _ROWS], self.dataset.framing
            squares = (framing.square(image.load(), self.resolution) for image in some)
            pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image in squares])  # [m, 3, R, R]
            parts.append(self.space(torch.from_numpy(pixels)))
        return np.concatenate(parts)


def open_comparison(config: MetricsConfig, progress: Progress) -> Comparison:
    """Open the images and what turns them into features; latents that are missing are encoded.

    Raises:
        UserError: Something named does not exist, or a folder does not fit the dataset.
    """
    config = replace(config, folders=local_runs(config.folders, "each of folders", progress))
    if recorded := recorded_framings(config.folders, "each of folders"):
        config = replace(config, **chosen_framing(config, recorded, progress).options())
    if config.features == "latents":
        return _by_latents(config, progress)
    dataset = open_training_images(config, progress)
    folders = _read_folders(config, dataset)
    R = config.resolution or load_generator(config.generator, dataset_name=dataset.name).resolution
    space: FeatureSpace = pixel_space
    settings: dict[str, Any] = {"features": config.features, "resolution": R}
    if config.features != "pixels":
        space = onnx_space(Path(config.features), config.input_range)
        settings["input_range"] = config.input_range

    bad_images: list[BadImage] = []

    def real(place: int) -> Features:
        known = len(bad_images)
        batches = image_batches(dataset, place, R, _ROWS, config.on_bad_image, bad_images=bad_images)
        features = np.concatenate([space(batch.images) for batch in batches])
        note_skipped(bad_images[known:], progress)
        return features

    return Comparison(dataset, folders, space, R, real, settings, bad_images)


def _by_latents(config: MetricsConfig, progress: Progress) -> Comparison:
    sources = open_sources(config, progress)
    dataset, generator, store = sources.dataset, sources.generator, sources.store
    if config.resolution not in (None, generator.resolution):
        raise UserError(
            f"resolution must be {generator.resolution} for the latents of {generator.name},"
            f" got {config.resolution}"
        )
    folders = _read_folders(config, dataset)
    report = sources.encode(dataset, config.on_bad_image, progress)
    autoencoder = generator.autoencoder.to(sources.device, store.dtype)

    def real(place: int) -> Features:
        found = store.open(dataset.classes[place])
        if found is None:
            raise UserError(
                f"the latents of class {dataset.classes[place].name} in {store.folder} were deleted while"
                " they were in use; start again"
            )
        latents: Features = found.latents.flatten(1).float().numpy()
        return latents

    settings = {
        "features": "latents",
        "resolution": generator.resolution,
        "autoencoder_digest": generator.autoencoder.digest,
    }
    space = latent_space(autoencoder, sources.device)
    return Comparison(dataset, folders, space, generator.resolution, real, settings, report.bad_images)


def _read_folders(config: MetricsConfig, dataset: Dataset) -> list[LabelledFolder]:
    """Before any image is read, so that a folder of other classes is refused at once."""
    return [read_classes(Path(path), dataset, "each of folders", config.ipc) for path in config.folders]
