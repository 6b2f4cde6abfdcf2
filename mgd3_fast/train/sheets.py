"""Pictures of a training: reconstructions of the autoencoder, and samples of the DiT on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from mgd3_engine.dit import DiT
from mgd3_fast.datasets.spreading import spread
from mgd3_fast.evaluate.images import ImageSet
from mgd3_fast.generators import Generator, KLAutoencoder, SamplingDefaults
from mgd3_fast.generators.dit import DiTNetwork, dit_generator
from mgd3_fast.generators.trained_schedule import Training
from mgd3_fast.judge.images import read_images
from mgd3_fast.judge.likeness import reconstruction_error
from mgd3_fast.judge.samples import draw_samples
from mgd3_fast.judge.sheets import RECONSTRUCTIONS, write_reconstructions, write_samples
from mgd3_fast.train.held_out import few_images
from mgd3_fast.train.run import TrainingRun

FOLDER = "samples"
_CLASSES, _PER_CLASS = 5, 4
_FORWARD_SHARE = 3  # a step costs about three forward passes of its batch
_MOST_COST = 0.03


def show_reconstructions(run: TrainingRun) -> None:
    """Write `reconstructions.png`, of held-out images where there are any, and say how close they come."""
    held_out = run.held_out
    if held_out is None:
        if run.dataset.stream is not None:
            return
        held_out = few_images(run.dataset)
    images = read_images(held_out, run.resolution, run.config.on_bad_image)
    autoencoder = KLAutoencoder(run.out / "vae").to(run.device)
    decoded = autoencoder.decode(autoencoder.encode(images.pixels))
    write_reconstructions(run.out / RECONSTRUCTIONS, held_out.class_names, images, decoded)
    psnr, l1 = reconstruction_error(images.pixels, decoded)
    kind = "training" if run.held_out is None else "held-out"
    run.progress.note(
        f"{len(images):,} {kind} images come out of the autoencoder at {psnr:.1f} dB, {l1:.1f} levels off:"
        f" {run.out / RECONSTRUCTIONS}"
    )


def sample_sheets(
    run: TrainingRun,
    network: DiT,
    autoencoder: KLAutoencoder,
    class_ids: Sequence[int],
    defaults: SamplingDefaults,
    steps: int,
) -> SampleSheets | None:
    """Make what draws the samples of a training, sampled as the finished generator will be; None for none."""
    if not run.config.sample_sheets:
        return None
    generator = dit_generator(
        DiTNetwork(lambda: network),
        network.config,
        autoencoder,
        name=run.out.name,
        source=str(run.out),
        licence="not stated",
        defaults=defaults,
        training=Training(run.schedule.build(), "epsilon"),
        cfg_channels=None if run.init is None else run.init.cfg_channels,
    )
    return SampleSheets(run, generator, class_ids, steps)


@dataclass(frozen=True)
class SampleSheets:
    """Draws a few classes, from the same noise each time, into `samples/STEP.png`.

    Args:
        run: The run.
        generator: All but the network that is being trained.
        class_ids: The network's id of each class of the run.
        steps: Of the training.
    """

    run: TrainingRun
    generator: Generator
    class_ids: Sequence[int]
    steps: int

    @cached_property
    def due(self) -> frozenset[int]:
        """Steps done when a sheet is drawn: the last, and as many before it as take 3% of the time."""
        rows = len(self._places) * _PER_CLASS * 2 * self.generator.defaults.steps
        affordable = _MOST_COST * _FORWARD_SHARE * self.steps * self.run.config.batch_size / rows
        sheets = min(self.run.config.sample_sheets, max(1, int(affordable)))
        return frozenset(self.steps * number // sheets for number in range(1, sheets + 1))

    @property
    def _places(self) -> Sequence[int]:
        return spread(len(self.run.dataset.classes), _CLASSES)

    def draw(self, network: DiT, done: int) -> None:
        """Draw what a network makes after some steps."""
        run = self.run
        names = [run.dataset.class_names[place] for place in self._places]
        pixels = draw_samples(
            replace(self.generator, network=DiTNetwork(lambda: network)),
            [self.class_ids[place] for place in self._places for _ in range(_PER_CLASS)],
            [(name, number) for name in names for number in range(_PER_CLASS)],
            seed=run.config.seed,
            device=run.device,
            precision="bf16" if run.bf16 else "fp32",
        )
        labels = torch.arange(len(names)).repeat_interleave(_PER_CLASS)
        file = f"{done:0{len(str(self.steps))}d}.png"
        write_samples(run.out / FOLDER / file, names, ImageSet(pixels, labels))
