"""What every stage starts from: the opened dataset, the generator, the device, and the stored latents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mgd3_fast.check import glance
from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import (
    BadImage,
    Dataset,
    ImageStream,
    chosen_framing,
    describe,
    open_source,
    unread_error,
)
from mgd3_fast.datasets.holdout import fit_part
from mgd3_fast.devices import autoencoder_dtype, device_name, dtype_of, resolve_device, resolve_precision
from mgd3_fast.errors import UserError
from mgd3_fast.generators import Generator, KLAutoencoder, load_generator
from mgd3_fast.latents import (
    Encoded,
    EncodeReport,
    LatentStore,
    Share,
    encode_dataset,
    encode_stream,
    make_job,
    note_old_latents,
)
from mgd3_fast.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

    from mgd3_fast.config import EncodeConfig
    from mgd3_fast.config.train import TrainConfig


@dataclass(frozen=True)
class Sources:
    """Dataset, generator, device and number format of a run.

    Args:
        dataset: The classes of the run.
        generator: Network, autoencoder and schedule; weights load on first use.
        device: Where the networks run.
        precision: fp32, bf16, fp16 or fp8.
        store: Latents of this autoencoder, kept between runs.
        encoded: What was encoded to open the dataset: images of a stream that was never read.
        told: Images of which was said that they are left out.
    """

    dataset: Dataset
    generator: Generator
    device: torch.device
    precision: str
    store: LatentStore
    encoded: Encoded = field(default_factory=Encoded)
    told: set[BadImage] = field(default_factory=set)

    def encode(
        self,
        dataset: Dataset,
        on_bad_image: str,
        progress: Progress,
        *,
        check: bool = False,
        share: Share | None = None,
    ) -> EncodeReport:
        """Encode what the store does not hold yet of some classes.

        Args:
            dataset: The classes.
            on_bad_image: "error" or "skip".
            progress: Receives the bar, and the images that were left out.
            check: Compare what is there with its checksums.
            share: The shards that are this process's.

        Raises:
            UserError: An image is damaged, or the disk has no room.
        """
        report = encode_dataset(
            dataset,
            self.generator.autoencoder,
            self.store,
            device=self.device,
            on_bad_image=on_bad_image,
            progress=progress,
            check=check,
            share=share,
        )
        note_skipped([bad for bad in report.bad_images if bad not in self.told], progress)
        self.told.update(report.bad_images)
        return report


def note_skipped(bad_images: Iterable[BadImage], progress: Progress) -> None:
    """Tell which images are left out, and why."""
    for bad in bad_images:
        progress.note(f"skipped {bad.class_name}/{bad.image_name}: {bad.reason}")


def open_sources(
    config: EncodeConfig, progress: Progress, share: Share | None = None, *, draws: bool = False
) -> Sources:
    """Open what a configuration names, and say what was found.

    A stream that was never read is encoded while it is read: before that, nobody knows its images. But for
    such a stream nothing is written yet.

    Args:
        config: Dataset, generator, device and precision.
        progress: Receives the description.
        share: Of such a stream, the shards that this process reads; while others are missing, the dataset
            is empty.
        draws: Whether the generator's network will draw the classes; a name that it does not know is then
            refused before anything is fetched.

    Raises:
        UserError: If something named does not exist or cannot be used here.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    opened = open_images(config, progress)
    generator = _open_generator(config, opened.name)
    for note in generator.notes:
        progress.note(note)
    progress.note(
        f"{generator.name}: {generator.resolution} px, {generator.conditioning},"
        f" licence {generator.licence}; {precision} on {device_name(device)}"
    )
    if generator.judged is not None:
        progress.note(f"{generator.name}: {generator.judged}")
    if draws and isinstance(opened, Dataset) and generator.class_names is not None:
        generator.class_ids(opened.class_names)
    framing = chosen_framing(config, {generator.name: generator.framing})
    store = LatentStore(
        config.cache_dir,
        generator.autoencoder.digest,
        generator.resolution,
        autoencoder_dtype(precision),
        storage_dtype=dtype_of(config.storage),
        flip=config.flip,
        framing=framing,
    )
    note_old_latents(store, progress)
    if isinstance(opened, Dataset):
        opened = replace(opened, framing=framing)
        glance(config.dataset, opened, generator.resolution, progress, on_bad_image=config.on_bad_image)
        return Sources(opened, generator, device, precision, store)
    job = make_job(
        generator.autoencoder, store, device=device, on_bad_image=config.on_bad_image, progress=progress
    )
    dataset, encoded = encode_stream(opened, job, classes=config.classes, share=share)
    if dataset is None:
        dataset = Dataset(opened.name, (), opened.class_names or (), root=opened.location, framing=framing)
    else:
        progress.note(describe(dataset))
    return Sources(dataset, generator, device, precision, store, encoded)


def _open_generator(config: EncodeConfig, dataset_name: str) -> Generator:
    """Open the generator of a run, with the autoencoder that draws latents as the run wants them."""
    heads = classes = None
    if isinstance(config, DistillConfig):  # others load no network, and need no class ids
        heads, classes = config.generator_heads, config.generator_classes
    generator = load_generator(
        config.generator, dataset_name=dataset_name, vae=config.vae, heads=heads, classes=classes
    )
    if isinstance(config, DistillConfig):
        config = config.completed(generator.presets)
    if config.posterior != "sample":
        return generator
    autoencoder = generator.autoencoder
    if not isinstance(autoencoder, KLAutoencoder):
        raise UserError(f"the autoencoder of {generator.name} has no posterior to sample: leave it out")
    return replace(generator, autoencoder=KLAutoencoder(autoencoder.source, "sample"))


def open_training_images(config: EncodeConfig, progress: Progress) -> Dataset:
    """Open the images that a configuration names, framed as for its generator, and say what was found.

    Raises:
        UserError: If something named does not exist.
    """
    opened = open_images(config, progress)
    if not isinstance(opened, Dataset):
        raise unread_error(config.dataset)
    # What "auto" may stand for records nothing, and need not be there.
    made_with = [] if config.generator == "auto" else [_open_generator(config, opened.name)]
    recorded = {generator.name: generator.framing for generator in made_with}
    opened = replace(opened, framing=chosen_framing(config, recorded))
    glance(config.dataset, opened, None, progress, on_bad_image=config.on_bad_image)
    return opened


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
    share = Share(*shard) if shard[1] > 1 else None
    sources = open_sources(config, progress, share)
    report = sources.encode(sources.dataset, config.on_bad_image, progress, check=True, share=share)
    opening = sources.encoded
    report = replace(
        report,
        images=report.images + opening.images,
        reused=max(0, report.reused - opening.images),
        seconds=report.seconds + opening.seconds,
        bytes_written=report.bytes_written + opening.bytes_written,
    )
    return report, sources


def open_images(config: EncodeConfig | TrainConfig, progress: Progress) -> Dataset | ImageStream:
    """Open the images of a split, and say what was found where they need not be read for it.

    Raises:
        UserError: There is no such dataset, or none are held out of it because it is a stream.
    """
    opened = open_source(
        config.dataset,
        data_dir=config.data_dir,
        classes=config.classes,
        progress=progress,
        cache_dir=config.cache_dir,
    )
    if config.split == "fit":
        if not isinstance(opened, Dataset) or opened.stream is not None:
            raise UserError(f"split must be train for a stream, got fit for {config.dataset}")
        opened = fit_part(opened)
    if isinstance(opened, Dataset):
        progress.note(describe(opened))
    return opened
