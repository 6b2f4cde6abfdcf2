"""Images that a generator makes of its classes, without mode guidance.

Shape letters: N images, C channels, h w latent size, R resolution in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mgd3_engine import image_seeds
from mgd3_fast.devices import autoencoder_dtype
from mgd3_fast.generators import Generator
from mgd3_fast.progress import SILENT, Progress
from mgd3_fast.run.sampler import batch_rows, sampler_of


def draw_samples(
    generator: Generator,
    class_ids: Sequence[int],
    identities: Sequence[tuple[str, int]],
    *,
    seed: int,
    device: torch.device,
    precision: str,
    progress: Progress = SILENT,
) -> Tensor:
    """Draw images with the generator's own sampler, steps and classifier-free guidance.

    An image depends on the seed, its class and its number alone: equal calls on two states of a network show
    the same noise.

    Args:
        generator: Network, autoencoder and defaults.
        class_ids: The generator's id of each image's class, `[N]`.
        identities: Class name and number of each image, which its noise is seeded with.
        seed: Of the run.
        device: Where the networks run.
        precision: fp32, bf16 or fp16.
        progress: Receives the bar.

    Returns:
        uint8 `[N, 3, R, R]` on the CPU.
    """
    B = batch_rows(len(class_ids), math.prod(generator.latent_shape[1:]), device.type)
    make = sampler_of(generator, device, precision, generator.defaults)
    sampler = make(guidance=None, batch_size=B, backend="eager")
    autoencoder = generator.autoencoder.to(device, autoencoder_dtype(precision))
    ids, seeds = torch.tensor(class_ids), image_seeds(seed, identities)
    images = []
    with progress.stage("sample", total=len(ids), unit="img", batch=B) as bar:
        for some_ids, some_seeds in zip(torch.split(ids, B), torch.split(seeds, B), strict=True):
            latents = sampler.sample(some_ids, None, some_seeds, latent_shape=generator.latent_shape)
            images.append(autoencoder.decode(latents).cpu())
            bar.advance(len(some_ids))
    return torch.cat(images)
