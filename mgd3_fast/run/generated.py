"""Images made by diffusion, each led to a mode of its class.

Shape letters: B images of a batch, C channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mgd3_engine import FeatureCache, GuidedSampler, ModeGuidance, image_seed, image_seeds
from mgd3_fast.config import DistillConfig
from mgd3_fast.config.distill import SPACINGS
from mgd3_fast.devices import autoencoder_dtype, device_name
from mgd3_fast.generators import SamplingDefaults
from mgd3_fast.modes.recovery import RecoveryCount
from mgd3_fast.run.decoding import DecodeQueue
from mgd3_fast.run.mode_finder import ModeFinder
from mgd3_fast.run.run import Maker, Run
from mgd3_fast.run.units import Made
from mgd3_fast.writers import MODES, PngWriter

if TYPE_CHECKING:
    from mgd3_fast.modes import ModeSet

D4M_STRENGTH = 0.7  # Su et al. 2024


@dataclass(frozen=True, kw_only=True)
class GeneratedImages(ModeFinder, Run):
    """A run whose images are generated.

    Args:
        sampling: Sampler, steps, scales and `t_stop`, with the generator's defaults filled in.
        class_ids: The generator's class id of each class of the run.
        guidance: Mode guidance, or None where it is off.
        cache: Which steps leave the network's blocks out, or None.
        sampler: Makes latents, in batches of `sampler.batch_shape` rows.
        sampler_like: Makes another one of the same network and steps; guidance, batches and backend are free.
    """

    config: DistillConfig
    sampling: SamplingDefaults
    class_ids: tuple[int, ...]
    guidance: ModeGuidance | None
    cache: FeatureCache | None
    sampler: GuidedSampler
    sampler_like: Callable[..., GuidedSampler]

    kept: ClassVar[str] = "finished latents and modes"
    takes_other_formats: ClassVar[bool] = True

    @property
    def device(self) -> str:
        """Name of the device that samples."""
        return device_name(self.sources.device)

    def settings(self) -> dict[str, Any]:
        """Name what decides the images; see `Run`."""
        config, sampling, generator = self.config, self.sampling, self.sources.generator
        return {
            **super().settings(),
            "generator": generator.name,
            "generator_digest": generator.digest,
            **(generator.prompts.settings() if generator.prompts else {}),
            **({"posterior": config.posterior} if config.posterior == "sample" else {}),
            "autoencoder_digest": generator.autoencoder.digest,
            "flip": config.flip,
            "storage": config.storage,
            "discovery": config.discovery,
            "kmeans": self.discovery.kmeans,
            **self._settings_of_modes(),
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "spacing": config.spacing or SPACINGS[0],
            **({"steps_offset": config.steps_offset} if config.steps_offset else {}),
            **({"image_size": config.image_size} if config.image_size else {}),
            "eta": config.eta,
            "cfg_scale": sampling.cfg_scale,
            **({"cfg_interval": list(config.cfg_interval)} if config.cfg_interval else {}),
            **self._settings_of_cache(),
            "mode_scale": sampling.mode_scale,
            "t_stop": sampling.t_stop,
            "guidance_form": self.guidance.form if self.guidance else "none",
            "start_strength": start_strength(config),
            "backend": self.sampler.backend,
            "precision": self.sources.precision,
            "batch_size": self.sampler.batch_shape,
        }

    def blocks(self, images: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Divide images into the sampler's batches, or objects of a store; see `Run`."""
        size = max(self.sampler.batch_shape, self.layout.together)
        return (tuple(images[start : start + size]) for start in range(0, len(images), size))

    def bar_of(self, images: Sequence[int]) -> dict[str, Any]:
        """Arguments of the bar; see `Run`."""
        block = len(self.layout.block(*self.config.shard_of()))
        return {
            "name": "sample",
            "total": block,
            "unit": "img",
            "initial": block - len(images),
            "batch": self.sampler.batch_shape,
            "first_apart": bool(self.sampler.preparation),
        }

    @contextmanager
    def making(self) -> Iterator[Maker]:
        """Sample batches; each is decoded and written while the next one is sampled.

        Image (class, k) is pulled to mode k of its class and its noise has a seed of its own, so a file does
        not depend on which others are made in this call or share its batch. On a GPU decoding and writing
        run beside the sampler, so that seconds of the stages can add up to more than the total.

        Images that cannot be read are left out by `encode`.
        """
        folder, size = self.folder, self.config.image_size
        progress, timings, preparation = self.progress, self.timings, self.sampler.preparation
        with PngWriter(folder.out, folder.temporary, folder.record, image_size=size) as writer:
            with progress.activity("loading the autoencoder"):
                dtype = autoencoder_dtype(self.sources.precision)
                autoencoder = self.sources.generator.autoencoder.to(self.sources.device, dtype)
            firsts = [progress.activity(f"first batch: {preparation}")] if preparation else []
            with DecodeQueue(autoencoder, writer, self.sources.device) as decoding:

                def make(images: Sequence[int], modes: ModeSet) -> Callable[[], Made]:
                    with timings.measure("sample"), firsts.pop() if firsts else nullcontext():
                        latents = self.sampler.sample(*self.inputs(images, modes))  # [B, C, h, w]
                    made = Made(recovery=self._recovered(images, latents, modes))
                    written = decoding.put([(image, self.layout.file(image)) for image in images], latents)

                    def wait() -> Made:
                        for stage, seconds in written().items():
                            timings.add(stage, seconds)
                        return made

                    return wait

                yield make

    def _recovered(self, images: Sequence[int], latents: Tensor, modes: ModeSet) -> RecoveryCount:
        """Count which of some latents `[B, C, h, w]` ended at their modes."""
        count = RecoveryCount()
        rows = {name: row for row, name in enumerate(modes.class_names)}
        for image, latent in zip(images, latents, strict=True):
            class_index, mode = self.layout.place(image)
            count.add(latent, modes.modes[rows[self.layout.class_names[class_index]]], mode)
        return count

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

    def save_modes(self, modes: ModeSet) -> tuple[str, ...]:
        """Write the file of modes."""
        modes.save(self.folder.work / MODES)
        (self.folder.work / MODES).replace(self.folder.out / MODES)
        return (MODES,)

    def origin(self, modes: ModeSet, image: int) -> dict[str, Any]:
        """Tell what an image was made from; see `Run`."""
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
            **({"preset": "fast"} if self.config.preset == "fast" else {}),
            "guidance": {
                "form": self.guidance.form if self.guidance else "none",
                "scale": sampling.mode_scale,
                "t_stop": sampling.t_stop,
                "guided_steps": self._guided_steps(),
                "steps": sampling.steps,
            },
            "generator": {
                "name": generator.name,
                "source": _portable(generator.source),
                "licence": generator.licence,
                "digest": generator.digest,
                "autoencoder_digest": generator.autoencoder.digest,
                "resolution": generator.resolution,
                **({"quality": _shown(generator.quality)} if generator.quality else {}),
            },
            **({"prompts": generator.prompts.by_class()} if generator.prompts else {}),
        }

    def describe(self) -> str:
        """Say in two lines what is about to be done."""
        sampling = self.sampling
        size = self.config.image_size
        written = f", written at {size} px" if size else ""
        guidance = "no mode guidance"
        if self.config.method == "d4m":
            guidance = f"starting at the noised mode, strength {start_strength(self.config):g}"
        if self.guidance is not None:
            guidance = (
                f"mode guidance {self.guidance.form}, scale {self.guidance.scale:g},"
                f" on {self._guided_steps()} of {sampling.steps} steps (t_stop {sampling.t_stop})"
            )
        cfg = f"cfg scale {sampling.cfg_scale:g}"
        if self.config.cfg_interval is not None:
            cfg += " on timesteps {} to {}".format(*self.config.cfg_interval)
        if self.cache is not None:
            cfg += f"; blocks on 1 of {self.cache.interval} steps from step {self.cache.start} on"
        return (
            f"{sampling.sampler}, {sampling.steps} steps, {cfg}; {guidance}\n"
            f"{len(self.layout):,} images, {self.config.ipc} for each of {len(self.layout.class_names):,}"
            f" classes, in batches of {self.sampler.batch_shape}, backend {self.sampler.backend}{written}"
        )

    def _settings_of_modes(self) -> dict[str, Any]:
        """What decides the modes beside the rest of the settings; usually nothing."""
        settings: dict[str, Any] = {}
        if self.discovery.seed != self.config.seed:
            settings["discovery_seed"] = self.discovery.seed
        if self.foreign_key is not None:
            settings["modes"] = self.foreign_key
        return settings

    def _settings_of_cache(self) -> dict[str, Any]:
        cache = self.cache
        if cache is None:
            return {}
        return {"cache_steps": cache.interval, "cache_order": cache.order, "cache_from": cache.start}

    def _guided_steps(self) -> int:
        """Count the steps on which mode guidance acts: those with index above `t_stop`."""
        return self.sampling.steps - 1 - self.sampling.t_stop if self.guidance else 0


def start_strength(config: DistillConfig) -> float | None:
    """Share of the steps that `method` d4m takes from the noised mode; None for a start at noise."""
    if config.method != "d4m":
        return None
    return D4M_STRENGTH if config.start_strength is None else config.start_strength


def _shown(quality: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of images wants to know of their generator."""
    return {name: quality[name] for name in ("verdict", "line", "dataset", "date", "measures")}


def _portable(source: str) -> str:
    """A hub id as it is; of a path of this machine the last part, the digest says the rest."""
    return Path(source).name if Path(source).exists() else source
