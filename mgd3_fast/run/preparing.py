"""The beginning of a run: open what it starts from, and decide and check everything; nothing is written."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from mgd3_engine import ModeGuidance
from mgd3_fast.config import DistillConfig, SamplingDefaults
from mgd3_fast.config.distill import SPACINGS
from mgd3_fast.config.methods import REAL_METHODS
from mgd3_fast.errors import UserError
from mgd3_fast.generators import class_ids, for_run
from mgd3_fast.modes import choose_discovery, header_of
from mgd3_fast.progress import Progress
from mgd3_fast.run.generated import GeneratedImages, start_strength
from mgd3_fast.run.mode_finder import given_modes
from mgd3_fast.run.real_images import open_real_images
from mgd3_fast.run.run import Run, Timings, laid_out, layout_for
from mgd3_fast.run.sampler import batch_rows, chosen_cache, chosen_sampling, sampler_of
from mgd3_fast.run.sources import Sources, open_sources
from mgd3_fast.run.trace import requested_trace
from mgd3_fast.storage.cache import cache_dir_or_default


def prepare(config: DistillConfig, progress: Progress, worker: int = 1) -> Run:
    """Open dataset and generator of a run, and decide and check that it can be done.

    Args:
        config: What was asked for.
        progress: Receives bars and notes.
        worker: Number of this process among the workers of the run's shard.

    Raises:
        UserError: If something named does not exist, does not fit, or cannot be done on this machine.
    """
    opened = open_real_images if config.method in REAL_METHODS else _open_generated
    return opened(config, progress, worker)


def _open_generated(config: DistillConfig, progress: Progress, worker: int) -> GeneratedImages:
    """Open dataset and generator, decide everything and check that it can be done; nothing is written.

    Raises:
        UserError: If something named does not exist, does not fit, or cannot be done on this machine.
    """
    timings = Timings()
    sources = open_sources(config, progress, draws=True)
    config = config.completed(sources.generator.presets)
    sources = _with_prompts(sources, config, progress)
    generator, layout = sources.generator, layout_for(config, sources.dataset)
    ids = class_ids(generator, sources.dataset, progress)
    sampling = chosen_sampling(config, generator)
    guidance, rows = _mode_guidance(config, sampling), config.batch_size
    cache = chosen_cache(config, generator, guidance, sampling)
    if not isinstance(rows, int):
        rows = batch_rows(len(layout), math.prod(generator.latent_shape[1:]), sources.device.type)
    layout = laid_out(config, layout, rows)
    with progress.activity(f"loading {generator.name}"):
        sampler_like = partial(
            sampler_of(generator, sources.device, sources.precision, sampling),
            spacing=config.spacing or SPACINGS[0],
            steps_offset=config.steps_offset or 0,
            eta=config.eta,
            cfg_interval=config.cfg_interval,
            cache=cache,
            start_strength=start_strength(config),
            cache_dir=cache_dir_or_default(config.cache_dir),
        )
        sampler = sampler_like(guidance=guidance, batch_size=rows, backend=config.backend)
    given = given_modes(config)
    header = header_of(given) if given else {}
    run = GeneratedImages(
        config=config,
        dataset=sources.dataset,
        layout=layout,
        progress=progress,
        timings=timings,
        worker=worker,
        sources=sources,
        discovery=choose_discovery(config, sources.device, header),
        header=header,
        sampling=sampling,
        class_ids=ids,
        guidance=guidance,
        cache=cache,
        sampler=sampler,
        sampler_like=sampler_like,
    )
    if config.trace is not None:
        requested_trace(config, layout, sampling)  # a wrong one is found before any work
    progress.note(run.describe())
    return run


def _mode_guidance(config: DistillConfig, sampling: SamplingDefaults) -> ModeGuidance | None:
    if config.method != "mgd3" or sampling.mode_scale == 0:
        return None
    _check_guides(sampling, config.t_stop_of)
    guidance = ModeGuidance(scale=sampling.mode_scale, t_stop=sampling.t_stop, form=config.guidance_form)
    return guidance.resolve(sampling.sampler, sampling.steps)


def _check_guides(sampling: SamplingDefaults, counted: int | None) -> None:
    """Refuse guidance that acts on no step of the run, in words of the command line."""
    steps, highest = sampling.steps, sampling.steps - 1
    if sampling.t_stop < highest:
        return
    where = f", got {sampling.t_stop}" if counted is None else f", which --t-stop-of {counted} makes of it"
    rule = f"--t-stop must be below {highest} with {steps} steps, or guidance acts on none{where}"
    if steps == 1:
        rule = "--steps must be at least 2 for mode guidance, got 1"
    raise UserError(f"{rule}; for no mode guidance: --method unguided or --mode-scale 0")


def _with_prompts(sources: Sources, config: DistillConfig, progress: Progress) -> Sources:
    generator = for_run(
        sources.generator,
        sources.dataset,
        prompts=config.prompts,
        prompt_template=config.prompt_template,
        negative_prompt=config.negative_prompt,
        synonyms=config.synonyms,
    )
    if generator.prompts is not None:
        progress.note(generator.prompts.describe())
    return replace(sources, generator=generator)
