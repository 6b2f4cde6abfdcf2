"""What every stage starts from: the opened dataset, the generator, and the device they meet on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mgd3_fast.datasets import Dataset, describe, open_dataset
from mgd3_fast.datasets.holdout import fit_part
from mgd3_fast.devices import autoencoder_dtype, device_name, resolve_device, resolve_precision
from mgd3_fast.generators import Generator, load_generator
from mgd3_fast.latents import LatentStore

if TYPE_CHECKING:
    import torch

    from mgd3_fast.config import EncodeConfig
    from mgd3_fast.progress import Progress


@dataclass(frozen=True)
class Sources:
    """Dataset, generator, device and number format of a run.

    Args:
        dataset: The classes of the run.
        generator: Network, autoencoder and schedule; weights load on first use.
        device: Where the networks run.
        precision: fp32, bf16 or fp16.
        store: Latents of this autoencoder, kept between runs.
    """

    dataset: Dataset
    generator: Generator
    device: torch.device
    precision: str
    store: LatentStore


def open_sources(config: EncodeConfig, progress: Progress) -> Sources:
    """Open what a configuration names, and say what was found.

    Args:
        config: Dataset, generator, device and precision.
        progress: Receives the description.

    Returns:
        The sources; nothing is written yet.

    Raises:
        UserError: If something named does not exist or cannot be used here.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    dataset = open_training_images(config, progress)
    generator = load_generator(config.generator, dataset_name=dataset.name, vae=config.vae)
    progress.note(
        f"{generator.name}: {generator.resolution} px, {generator.num_classes} classes,"
        f" licence {generator.licence}; {precision} on {device_name(device)}"
    )
    store = LatentStore(
        config.cache_dir, generator.autoencoder.digest, generator.resolution, autoencoder_dtype(precision)
    )
    return Sources(dataset, generator, device, precision, store)


def open_training_images(config: EncodeConfig, progress: Progress) -> Dataset:
    """Open the images that a configuration names, and say what was found.

    Args:
        config: Dataset, classes and split.
        progress: Receives the description.

    Returns:
        The dataset.

    Raises:
        UserError: If something named does not exist.
    """
    dataset = open_dataset(
        config.dataset, data_dir=config.data_dir, classes=config.classes, progress=progress
    )
    if config.split == "fit":
        dataset = fit_part(dataset)
    progress.note(describe(dataset))
    return dataset
