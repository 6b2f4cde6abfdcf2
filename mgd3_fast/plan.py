"""One run, decided: every default filled in, every image numbered, what two runs must share named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mgd3_engine import GuidanceTerm, GuidedSampler, ModeGuidance
from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import imagenet_classes
from mgd3_fast.devices import dtype_of
from mgd3_fast.formats.converting import check_format
from mgd3_fast.generators import SamplingDefaults, for_run
from mgd3_fast.generators.placing import place_network
from mgd3_fast.modes import check_ipc
from mgd3_fast.sources import Sources, open_sources
from mgd3_fast.stages import kmeans_engine_of
from mgd3_fast.storage.cache import cache_dir_or_default
from mgd3_fast.writers import Layout, layout_of

if TYPE_CHECKING:
    from mgd3_fast.progress import Progress

D4M_STRENGTH = 0.7  # Su et al. 2024
ROW_MULTIPLE = 8
MOST_ROWS_CPU = 64
MOST_ROWS_CUDA = 256
ROW_AREA_CPU = 64 * 8 * 8  # latent positions of a batch: beyond it a CPU gains nothing from a larger one
ROW_AREA_CUDA = 128 * 32 * 32


@dataclass(frozen=True)
class Plan:
    """A run whose every choice is made.

    Args:
        config: What was asked for.
        sampling: Sampler, steps, scales and `t_stop`, with the generator's defaults filled in.
        sources: Dataset, generator, device.
        layout: The image list.
        class_ids: The generator's class id of each class of the run.
        guidance: Mode guidance, or None where it is off.
        sampler: Makes latents, in batches of `sampler.batch_shape` rows.
    """

    config: DistillConfig
    sampling: SamplingDefaults
    sources: Sources
    layout: Layout
    class_ids: tuple[int, ...]
    guidance: ModeGuidance | None
    sampler: GuidedSampler

    def settings(self) -> dict[str, Any]:
        """Name what decides the images; runs into one output folder must agree on all of it."""
        config, sampling = self.config, self.sampling
        dataset, generator = self.sources.dataset, self.sources.generator
        return {
            "method": config.method,
            "dataset": dataset.name,
            "classes": f"{len(dataset.classes)} of {len(dataset.all_class_names)}",
            "class_list_hash": dataset.class_list_hash,
            "dataset_fingerprint": dataset.fingerprint,
            "ipc": config.ipc,
            "seed": config.seed,
            "format": layout_of(config.format),
            "generator": generator.name,
            "generator_digest": generator.digest,
            **(generator.prompts.settings() if generator.prompts else {}),
            "autoencoder_digest": generator.autoencoder.digest,
            "flip": config.flip,
            "storage": config.storage,
            "discovery": config.discovery,
            "kmeans": kmeans_engine_of(config, self.sources).name,
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "spacing": config.spacing,
            "eta": config.eta,
            "cfg_scale": sampling.cfg_scale,
            "mode_scale": sampling.mode_scale,
            "t_stop": sampling.t_stop,
            "guidance_form": self.guidance.form if self.guidance else "none",
            "start_strength": _start_strength(config),
            "backend": self.sampler.backend,
            "precision": self.sources.precision,
            "batch_size": self.sampler.batch_shape,
        }

    def guided_steps(self) -> int:
        """Count the steps on which mode guidance acts: those with index above `t_stop`."""
        return self.sampling.steps - 1 - self.guidance.t_stop if self.guidance else 0

    def describe(self) -> str:
        """Say in two lines what is about to be done."""
        sampling = self.sampling
        guidance = "no mode guidance"
        if self.config.method == "d4m":
            guidance = f"starting at the noised mode, strength {_start_strength(self.config):g}"
        if self.guidance is not None:
            guidance = (
                f"mode guidance {self.guidance.form}, scale {self.guidance.scale:g},"
                f" on {self.guided_steps()} of {sampling.steps} steps (t_stop {self.guidance.t_stop})"
            )
        return (
            f"{sampling.sampler}, {sampling.steps} steps, cfg scale {sampling.cfg_scale:g}; {guidance}\n"
            f"{len(self.layout):,} images, {self.config.ipc} for each of {len(self.layout.class_names):,}"
            f" classes, in batches of {self.sampler.batch_shape}, backend {self.sampler.backend}"
        )


def make_plan(config: DistillConfig, progress: Progress) -> Plan:
    """Decide a run and check that it can be done; nothing is written.

    Args:
        config: What is asked for.
        progress: Receives the description.

    Returns:
        The plan.

    Raises:
        UserError: If something named does not exist, does not fit, or cannot be done on this machine.
    """
    sources = _with_prompts(open_sources(config, progress), config, progress)
    dataset, generator = sources.dataset, sources.generator
    check_ipc(dataset.counts, config.ipc)
    sampling = config.sampling(generator.defaults)
    check_format(config.format, dataset.class_names)
    layout = Layout(
        dataset.class_names, tuple(cls.label for cls in dataset.classes), config.ipc, layout_of(config.format)
    )
    guidance = _guidance(config, sampling)
    with progress.activity(f"loading {generator.name}"):
        sampler = make_sampler(config, sampling, sources, guidance, len(layout))
    plan = Plan(config, sampling, sources, layout, _class_ids(sources, progress), guidance, sampler)
    progress.note(plan.describe())
    return plan


def batch_rows(images: int, latent_area: int, device_type: str) -> int:
    """Choose how many images share a batch, from the whole run and the device alone.

    Args:
        images: Images of the whole run, all shards together.
        latent_area: Latent height times width.
        device_type: "cpu" or "cuda".

    Returns:
        A multiple of 8 that splits the run into equal batches: two of 56 for 100 images, not 64 and 36.
    """
    most, area = (MOST_ROWS_CUDA, ROW_AREA_CUDA) if device_type == "cuda" else (MOST_ROWS_CPU, ROW_AREA_CPU)
    most = min(most, max(ROW_MULTIPLE, area // latent_area))
    batches = -(-images // most)
    rows = -(-images // batches)
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


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


def _class_ids(sources: Sources, progress: Progress) -> tuple[int, ...]:
    dataset, generator = sources.dataset, sources.generator
    if generator.class_names is not None:
        return tuple(generator.class_ids(dataset.class_names))
    # A generator without names counts in the full class list, also when only some classes of it are opened.
    ids = generator.class_ids(dataset.all_class_names)
    wnids = frozenset(imagenet_classes("imagenet1k"))
    if generator.num_classes != len(wnids) or wnids.isdisjoint(dataset.all_class_names):
        progress.note(
            f"{generator.name} knows no class names: its class ids are taken to be the dataset's labels"
        )
    return tuple(ids[cls.label] for cls in dataset.classes)


def _start_strength(config: DistillConfig) -> float | None:
    """Share of the steps that are taken from the noised mode; None for a start at noise."""
    if config.method != "d4m":
        return None
    return D4M_STRENGTH if config.start_strength is None else config.start_strength


def _guidance(config: DistillConfig, sampling: SamplingDefaults) -> ModeGuidance | None:
    if config.method != "mgd3" or sampling.mode_scale == 0 or sampling.t_stop >= sampling.steps - 1:
        return None
    guidance = ModeGuidance(scale=sampling.mode_scale, t_stop=sampling.t_stop, form=config.guidance_form)
    return guidance.resolve(sampling.sampler)


def make_sampler(
    config: DistillConfig,
    sampling: SamplingDefaults,
    sources: Sources,
    guidance: ModeGuidance | None,
    images: int,
    *,
    terms: Sequence[GuidanceTerm] = (),
) -> GuidedSampler:
    """Make what turns seeds and modes into latents.

    Args:
        config: Spacing, eta, backend and batch size.
        sampling: Sampler, steps and scales.
        sources: Generator, device and precision.
        guidance: Mode guidance, or None where it is off.
        images: Images of the whole run, which decide the batch size unless the configuration does.
        terms: Further guidance.

    Returns:
        The sampler.

    Raises:
        ValueError: The backend cannot run on this machine.
    """
    generator, dtype = sources.generator, dtype_of(sources.precision)
    _, height, width = generator.latent_shape
    rows = config.batch_size
    if not isinstance(rows, int):
        rows = batch_rows(images, height * width, sources.device.type)
    return GuidedSampler(
        place_network(generator, sources.device, sources.precision),
        schedule=generator.schedule,
        method=sampling.sampler,
        steps=sampling.steps,
        spacing=config.spacing,
        eta=config.eta,
        prediction=generator.prediction,
        cfg_scale=sampling.cfg_scale,
        null_class=generator.null_class,
        cfg_channels=generator.cfg_channels,
        guidance=guidance,
        terms=terms,
        start_strength=_start_strength(config),
        backend=config.backend,
        cache_dir=cache_dir_or_default(config.cache_dir),
        batch_size=rows,
        device=sources.device,
        dtype=dtype,
    )
