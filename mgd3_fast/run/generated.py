"""Images made by diffusion, each led to a mode of its class.

Shape letters: B images of a batch, C channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mgd3_engine import GuidedSampler, ModeGuidance, image_seed, image_seeds
from mgd3_fast.config import DistillConfig
from mgd3_fast.devices import autoencoder_dtype, device_name
from mgd3_fast.generators import SamplingDefaults, for_run
from mgd3_fast.modes import choose_discovery
from mgd3_fast.run.decoding import DecodeQueue
from mgd3_fast.run.discovery import ModeSource, given_modes
from mgd3_fast.run.run import Run, dataset_settings, layout_for
from mgd3_fast.run.sampler import chosen_sampling, class_ids, make_sampler, mode_guidance, start_strength
from mgd3_fast.run.sources import Sources, open_sources
from mgd3_fast.run.trace import requested_trace
from mgd3_fast.writers import MODES, Layout, PngWriter

if TYPE_CHECKING:
    from mgd3_fast.modes import ModeSet
    from mgd3_fast.progress import Progress


@dataclass(frozen=True, kw_only=True)
class GeneratedImages(ModeSource):
    """A source of images with every choice made.

    Args:
        sampling: Sampler, steps, scales and `t_stop`, with the generator's defaults filled in.
        layout: The image list.
        class_ids: The generator's class id of each class of the run.
        guidance: Mode guidance, or None where it is off.
        sampler: Makes latents, in batches of `sampler.batch_shape` rows.
    """

    config: DistillConfig
    sampling: SamplingDefaults
    layout: Layout
    class_ids: tuple[int, ...]
    guidance: ModeGuidance | None
    sampler: GuidedSampler
    kept: str = "finished latents and modes"

    @property
    def device(self) -> str:
        """Name of the device that samples."""
        return device_name(self.sources.device)

    def settings(self) -> dict[str, Any]:
        """Name what decides the images; see `ImageSource`."""
        config, sampling, generator = self.config, self.sampling, self.sources.generator
        return {
            **dataset_settings(config, self.dataset),
            "generator": generator.name,
            "generator_digest": generator.digest,
            **(generator.prompts.settings() if generator.prompts else {}),
            "autoencoder_digest": generator.autoencoder.digest,
            "flip": config.flip,
            "storage": config.storage,
            "discovery": config.discovery,
            "kmeans": self.discovery.kmeans,
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "spacing": config.spacing,
            "eta": config.eta,
            "cfg_scale": sampling.cfg_scale,
            **({"cfg_interval": list(config.cfg_interval)} if config.cfg_interval else {}),
            "mode_scale": sampling.mode_scale,
            "t_stop": sampling.t_stop,
            "guidance_form": self.guidance.form if self.guidance else "none",
            "start_strength": start_strength(config),
            "backend": self.sampler.backend,
            "precision": self.sources.precision,
            "batch_size": self.sampler.batch_shape,
        }

    def make_images(self, run: Run[Any], images: Sequence[int], modes: ModeSet) -> list[dict[str, str]]:
        """Sample some images batch after batch; each batch is decoded and written while the next is sampled.

        Image (class, k) is pulled to mode k of its class and its noise has a seed of its own, so a file does
        not depend on which others are made in this call or share its batch. On a GPU decoding and writing
        run beside the sampler, so that seconds of the stages can add up to more than the total.

        Args:
            run: The run, with its folder opened.
            images: Image numbers.
            modes: Modes of at least the classes of these images.

        Returns:
            Nothing: images that cannot be read are left out by `encode`.
        """
        block, B = self.layout.block(*self.config.shard_of()), self.sampler.batch_shape
        preparation, folder = self.sampler.preparation, run.folder
        with (
            run.progress.stage(
                "sample",
                total=len(block),
                unit="img",
                initial=len(block) - len(images),
                batch=B,
                first_apart=bool(preparation),
            ) as bar,
            PngWriter(folder.out, folder.temporary, folder.record) as writer,
        ):
            with run.progress.activity("loading the autoencoder"):
                dtype = autoencoder_dtype(self.sources.precision)
                autoencoder = self.sources.generator.autoencoder.to(self.sources.device, dtype)
            first = run.progress.activity(f"first batch: {preparation}") if preparation else nullcontext()
            with DecodeQueue(autoencoder, writer, self.sources.device, bar.advance) as decoding:
                for start in range(0, len(images), B):
                    batch = images[start : start + B]
                    with run.timings.measure("sample"), first if start == 0 else nullcontext():
                        latents = self.sampler.sample(*self.inputs(batch, modes))  # [B, C, h, w]
                    decoding.put([(image, self.layout.file(image)) for image in batch], latents)
            for stage, seconds in decoding.seconds.items():
                run.timings.add(stage, seconds)
            with run.timings.measure("write"):
                writer.close()
        return []

    def inputs(self, images: Sequence[int], modes: ModeSet) -> tuple[Tensor, Tensor, Tensor]:
        """Gather what the sampler makes some images from.

        Args:
            images: Image numbers of a batch.
            modes: Modes of at least their classes.

        Returns:
            Class ids int64 `[B]`, modes float32 `[B, C, h, w]` and seeds `[B]`.
        """
        places = [self.layout.place(image) for image in images]
        identities = [(self.layout.class_names[class_index], mode) for class_index, mode in places]
        rows = {name: row for row, name in enumerate(modes.class_names)}
        return (
            torch.tensor([self.class_ids[class_index] for class_index, _ in places]),
            torch.stack([modes.modes[rows[name], mode] for name, mode in identities]),
            image_seeds(self.config.seed, identities),
        )

    def save_modes(self, run: Run[Any], modes: ModeSet) -> tuple[str, ...]:
        """Write the file of modes; see `ImageSource`."""
        modes.save(run.folder.work / MODES)
        (run.folder.work / MODES).replace(run.folder.out / MODES)
        return (MODES,)

    def origin(self, modes: ModeSet, image: int) -> dict[str, Any]:
        """Tell what an image was made from; see `ImageSource`."""
        class_index, mode = self.layout.place(image)
        return {
            "weight": round(float(modes.weights[class_index, mode]), 6),
            "source_index": int(modes.source_index[class_index, mode]),
            "seed": f"{image_seed(self.config.seed, self.layout.class_names[class_index], mode):016x}",
        }

    def sections(self) -> dict[str, Any]:
        """Describe guidance and generator for the manifest."""
        generator, sampling = self.sources.generator, self.sampling
        return {
            "guidance": {
                "form": self.guidance.form if self.guidance else "none",
                "scale": sampling.mode_scale,
                "t_stop": sampling.t_stop,
                "guided_steps": self.guided_steps(),
                "steps": sampling.steps,
            },
            "generator": {
                "name": generator.name,
                "source": _portable(generator.source),
                "licence": generator.licence,
                "digest": generator.digest,
                "autoencoder_digest": generator.autoencoder.digest,
                "resolution": generator.resolution,
            },
            **({"prompts": generator.prompts.by_class()} if generator.prompts else {}),
        }

    def guided_steps(self) -> int:
        """Count the steps on which mode guidance acts: those with index above `t_stop`."""
        return self.sampling.steps - 1 - self.guidance.t_stop if self.guidance else 0

    def describe(self) -> str:
        """Say in two lines what is about to be done."""
        sampling = self.sampling
        guidance = "no mode guidance"
        if self.config.method == "d4m":
            guidance = f"starting at the noised mode, strength {start_strength(self.config):g}"
        if self.guidance is not None:
            guidance = (
                f"mode guidance {self.guidance.form}, scale {self.guidance.scale:g},"
                f" on {self.guided_steps()} of {sampling.steps} steps (t_stop {self.guidance.t_stop})"
            )
        cfg = f"cfg scale {sampling.cfg_scale:g}"
        if self.config.cfg_interval is not None:
            cfg += " on timesteps {} to {}".format(*self.config.cfg_interval)
        return (
            f"{sampling.sampler}, {sampling.steps} steps, {cfg}; {guidance}\n"
            f"{len(self.layout):,} images, {self.config.ipc} for each of {len(self.layout.class_names):,}"
            f" classes, in batches of {self.sampler.batch_shape}, backend {self.sampler.backend}"
        )


def open_generated(config: DistillConfig, progress: Progress) -> GeneratedImages:
    """Open dataset and generator, decide everything and check that it can be done; nothing is written.

    Args:
        config: What is asked for.
        progress: Receives the description.

    Returns:
        The source of images.

    Raises:
        UserError: If something named does not exist, does not fit, or cannot be done on this machine.
    """
    sources = _with_prompts(open_sources(config, progress), config, progress)
    layout = layout_for(config, sources.dataset)
    sampling = chosen_sampling(config, sources.generator)
    guidance = mode_guidance(config, sampling)
    with progress.activity(f"loading {sources.generator.name}"):
        sampler = make_sampler(config, sampling, sources, guidance, len(layout))
    source = GeneratedImages(
        config=config,
        sources=sources,
        discovery=choose_discovery(config, sources.device, given_modes(config)),
        sampling=sampling,
        layout=layout,
        class_ids=class_ids(sources, progress),
        guidance=guidance,
        sampler=sampler,
    )
    requested_trace(config, layout, sampling)  # a wrong one is found before any work
    progress.note(source.describe())
    return source


def _with_prompts(sources: Sources, config: DistillConfig, progress: Progress) -> Sources:
    generator = for_run(
        sources.generator,
        sources.dataset,
        prompts=config.prompts,
        prompt_template=config.prompt_template,
        negative_prompt=config.negative_prompt,
    )
    if generator.prompts is not None:
        progress.note(generator.prompts.describe())
    return replace(sources, generator=generator)


def _portable(source: str) -> str:
    """A hub id as it is; of a path of this machine the last part, the digest says the rest."""
    return Path(source).name if Path(source).exists() else source
