"""The sampler of a run: its network and its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mgd3_engine import FeatureCache, GuidedSampler
from mgd3_fast.config.checks import check_whole
from mgd3_fast.config.distill import SPACINGS
from mgd3_fast.devices import dtype_of
from mgd3_fast.errors import UserError
from mgd3_fast.generators import place_network

if TYPE_CHECKING:
    import torch

    from mgd3_engine import ModeGuidance
    from mgd3_fast.config import DistillConfig
    from mgd3_fast.generators import Generator, SamplingDefaults

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


def chosen_sampling(config: DistillConfig, generator: Generator) -> SamplingDefaults:
    """What a run is sampled with; `t_stop` counts the steps of the run, whatever `t_stop_of` it was given in.

    Raises:
        UserError: What was given does not fit the generator.
    """
    sampling, schedule = config.sampling(generator.defaults), generator.schedule
    if config.t_stop_of is None:
        return sampling
    check_whole("t_stop_of", config.t_stop_of, 1, len(schedule))
    spacing = config.spacing or SPACINGS[0]
    stop = schedule.stop_index(sampling.t_stop, of=config.t_stop_of, steps=sampling.steps, spacing=spacing)
    return replace(sampling, t_stop=stop)


def chosen_cache(
    config: DistillConfig, generator: Generator, guidance: ModeGuidance | None, sampling: SamplingDefaults
) -> FeatureCache | None:
    """The cache of a run, its first step stated; None for a run whose steps are all computed.

    Raises:
        UserError: The generator is no DiT, or the steps that are left are all computed.
    """
    if not config.caches:
        return None
    from mgd3_fast.generators.dit import DiTNetwork

    if not isinstance(generator.network, DiTNetwork):
        raise UserError(f"--cache-steps must be left out for {generator.name}, which is no DiT")
    start, last = config.cache_from, sampling.steps - 1
    if start is None:
        start = guidance.stop(sampling.steps) if guidance else last
    cache = FeatureCache(config.cache_steps or 1, config.cache_order or 0, start)
    if min(start, last) <= cache.order:
        raise UserError(
            f"--cache-from must be above --cache-order, got {start} and {cache.order};"
            " where it is not given, caching begins where mode guidance ends"
        )
    return cache


def sampler_of(
    generator: Generator, device: torch.device, precision: str, sampling: SamplingDefaults
) -> Callable[..., GuidedSampler]:
    """Load a generator's network, and make `GuidedSampler` with all that the generator decides.

    Args:
        generator: Network, schedule and conditioning.
        device: Where it runs.
        precision: fp32, bf16, fp16 or fp8.
        sampling: Sampler, steps and scales.

    Returns:
        `GuidedSampler`, of which guidance, batches, backend and cache are left to the caller.
    """
    return partial(
        GuidedSampler,
        place_network(generator, device, precision),
        schedule=generator.schedule,
        method=sampling.sampler,
        steps=sampling.steps,
        prediction=generator.prediction,
        cfg_scale=sampling.cfg_scale,
        null_class=generator.null_class,
        cfg_channels=generator.cfg_channels,
        device=device,
        dtype=dtype_of(precision),
    )
