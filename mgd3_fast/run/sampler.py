"""The sampler of a run: its guidance, its batches, and the class ids it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mgd3_engine import GuidanceTerm, GuidedSampler, ModeGuidance
from mgd3_fast.config.fields import check_whole
from mgd3_fast.datasets import imagenet_classes
from mgd3_fast.devices import dtype_of
from mgd3_fast.generators.placing import place_network
from mgd3_fast.storage.cache import cache_dir_or_default

if TYPE_CHECKING:
    from mgd3_fast.config import DistillConfig
    from mgd3_fast.generators import Generator, SamplingDefaults
    from mgd3_fast.progress import Progress
    from mgd3_fast.run.sources import Sources

D4M_STRENGTH = 0.7  # Su et al. 2024
ROW_MULTIPLE = 8
MOST_ROWS_CPU = 64
MOST_ROWS_CUDA = 256
ROW_AREA_CPU = 64 * 8 * 8  # latent positions of a batch: beyond it a CPU gains nothing from a larger one
ROW_AREA_CUDA = 128 * 32 * 32


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


def class_ids(sources: Sources, progress: Progress) -> tuple[int, ...]:
    """Find the generator's class id of each class of a run.

    Args:
        sources: Dataset and generator.
        progress: Is told where ids are a guess.

    Returns:
        Ids in the order of the classes.

    Raises:
        UserError: The generator does not know a class.
    """
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


def start_strength(config: DistillConfig) -> float | None:
    """Share of the steps that `method` d4m takes from the noised mode; None for a start at noise."""
    if config.method != "d4m":
        return None
    return D4M_STRENGTH if config.start_strength is None else config.start_strength


def chosen_sampling(config: DistillConfig, generator: Generator) -> SamplingDefaults:
    """What a run is sampled with; `t_stop` counts the steps of the run, whatever `t_stop_of` it was given in.

    Raises:
        UserError: What was given does not fit the generator.
    """
    sampling, schedule = config.sampling(generator.defaults), generator.schedule
    if config.t_stop_of is None:
        return sampling
    check_whole("t_stop_of", config.t_stop_of, 1, len(schedule))
    stop = schedule.stop_index(
        sampling.t_stop, of=config.t_stop_of, steps=sampling.steps, spacing=config.spacing
    )
    return replace(sampling, t_stop=stop)


def mode_guidance(config: DistillConfig, sampling: SamplingDefaults) -> ModeGuidance | None:
    """Mode guidance of a run, or None where it is off."""
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
        config: Spacing, eta, interval of classifier-free guidance, backend and batch size.
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
        cfg_interval=config.cfg_interval,
        guidance=guidance,
        terms=terms,
        start_strength=start_strength(config),
        backend=config.backend,
        cache_dir=cache_dir_or_default(config.cache_dir),
        batch_size=rows,
        device=sources.device,
        dtype=dtype,
    )
