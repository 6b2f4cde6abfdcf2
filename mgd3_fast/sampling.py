"""Modes to image files, batch after batch: sample latents and queue them for decoding and writing.

Shape letters: B images of a batch, C channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from mgd3_engine import image_seeds
from mgd3_fast.decoding import DecodeQueue
from mgd3_fast.devices import autoencoder_dtype

if TYPE_CHECKING:
    from mgd3_fast.modes import ModeSet
    from mgd3_fast.plan import Plan
    from mgd3_fast.progress import Bar, Progress
    from mgd3_fast.timings import Timings
    from mgd3_fast.writers import PngWriter


def make_images(
    plan: Plan,
    modes: ModeSet,
    images: Sequence[int],
    writer: PngWriter,
    bar: Bar,
    timings: Timings,
    progress: Progress,
) -> None:
    """Make the given images and queue them for writing.

    Image (class, k) is pulled to mode k of its class and its noise has a seed of its own, so a file does not
    depend on which others are made in this call or share its batch.

    Args:
        plan: The run.
        modes: Modes of at least the classes of these images.
        images: Image numbers of the run.
        writer: Receives every image.
        bar: Advanced by each batch.
        timings: Receives the seconds of `sample`, `decode` and `write`; on a GPU the last two run beside the
            first, so that they can add up to more than the total.
        progress: Is told what the first batch does beside sampling.
    """
    layout, device = plan.layout, plan.sources.device
    with progress.activity("loading the autoencoder"):
        autoencoder = plan.sources.generator.autoencoder.to(device, autoencoder_dtype(plan.sources.precision))
    row_of_class = {name: row for row, name in enumerate(modes.class_names)}
    B, preparation = plan.sampler.batch_shape, plan.sampler.preparation
    first = progress.activity(f"first batch: {preparation}") if preparation else nullcontext()
    with DecodeQueue(autoencoder, writer, device, bar.advance) as decoding:
        for start in range(0, len(images), B):
            batch = images[start : start + B]
            places = [layout.place(image) for image in batch]
            identities = [(layout.class_names[class_index], mode) for class_index, mode in places]
            with timings.measure("sample"), first if start == 0 else nullcontext():
                latents = plan.sampler.sample(
                    torch.tensor([plan.class_ids[class_index] for class_index, _ in places]),
                    torch.stack([modes.modes[row_of_class[name], mode] for name, mode in identities]),
                    image_seeds(plan.config.seed, identities),
                )  # [B, C, h, w]
            decoding.put([(image, layout.file(image)) for image in batch], latents)
    for stage, seconds in decoding.seconds.items():
        timings.add(stage, seconds)
