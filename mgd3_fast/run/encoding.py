"""The first stage of a run, and a command of its own: images to stored latents."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mgd3_fast.latents import EncodeReport, Share, encode_dataset
from mgd3_fast.progress import SILENT
from mgd3_fast.run.sources import Sources, open_sources

if TYPE_CHECKING:
    from mgd3_fast.config import EncodeConfig
    from mgd3_fast.datasets import Dataset
    from mgd3_fast.progress import Progress


def encode(
    config: EncodeConfig, progress: Progress = SILENT, shard: tuple[int, int] = (1, 1)
) -> tuple[EncodeReport, Sources]:
    """Bring the latents of a dataset into the store; classes that are there are not encoded again.

    Latents that are there are compared with their checksums, and damaged ones made anew.

    Args:
        config: Dataset, generator, device.
        progress: Receives the bar and notes.
        shard: (I, N): the I-th of N parts of the classes, or of the shards of mixed classes.

    Returns:
        What was done, and the opened sources.

    Raises:
        UserError: If something named does not exist, an image is damaged, or the disk has no room.
    """
    part, parts = shard
    share = Share(part, parts) if parts > 1 else None
    sources = open_sources(config, progress, share)
    report = encode_latents(sources, sources.dataset, config.on_bad_image, progress, check=True, share=share)
    opening = sources.encoded
    report = replace(
        report,
        images=report.images + opening.images,
        reused=max(0, report.reused - opening.images),
        seconds=report.seconds + opening.seconds,
        bytes_written=report.bytes_written + opening.bytes_written,
    )
    return report, sources


def encode_latents(
    sources: Sources,
    dataset: Dataset,
    on_bad_image: str,
    progress: Progress,
    *,
    check: bool = False,
    share: Share | None = None,
) -> EncodeReport:
    """Encode what the store does not hold yet of some classes.

    Args:
        sources: Autoencoder, store and device.
        dataset: The classes.
        on_bad_image: "error" or "skip".
        progress: Receives the bar, and the images that were left out.
        check: Compare what is there with its checksums.
        share: The shards that are this process's.

    Returns:
        What was done.

    Raises:
        UserError: An image is damaged, or the disk has no room.
    """
    report = encode_dataset(
        dataset,
        sources.generator.autoencoder,
        sources.store,
        device=sources.device,
        on_bad_image=on_bad_image,
        progress=progress,
        check=check,
        share=share,
    )
    for bad in report.bad_images:
        progress.note(f"skipped {bad.class_name}/{bad.image_name}: {bad.reason}")
    return report
