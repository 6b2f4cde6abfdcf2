"""Mode-guided diffusion sampling on any class-conditional denoiser.

    from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule

    sampler = GuidedSampler(
        denoiser,  # any callable: (x[2B, C, H, W], timestep[2B], class_ids[2B]) -> [2B, C or 2C, H, W]
        schedule=NoiseSchedule.linear(1000, 1e-4, 2e-2),
        method="ddpm", steps=50, cfg_scale=4.0, null_class=1000, cfg_channels=3,
        guidance=ModeGuidance(scale=0.1, t_stop=25),
        backend="auto",
    )
    latents = sampler.sample(class_ids, modes, seeds)  # [N] int64, [N, C, H, W] float32, [N] uint64

The engine knows nothing of data sets, of the command line or of where a product keeps its files;
`mgd3_engine.dit` holds the network of the paper.
"""

from __future__ import annotations

from mgd3_engine.backends import backend_names
from mgd3_engine.denoiser import Denoiser
from mgd3_engine.sampling.callback import StepCallback
from mgd3_engine.sampling.coefficients import step_table
from mgd3_engine.sampling.feature_cache import FeatureCache
from mgd3_engine.sampling.guidance import GuidanceTerm, ModeGuidance, StepState
from mgd3_engine.sampling.noise import NoiseSource
from mgd3_engine.sampling.sampler import GuidedSampler
from mgd3_engine.sampling.schedule import NoiseSchedule, RespacedSchedule
from mgd3_engine.sampling.seeds import image_seed, image_seeds

__all__ = [
    "Denoiser",
    "FeatureCache",
    "GuidanceTerm",
    "GuidedSampler",
    "ModeGuidance",
    "NoiseSchedule",
    "NoiseSource",
    "RespacedSchedule",
    "StepCallback",
    "StepState",
    "backend_names",
    "image_seed",
    "image_seeds",
    "step_table",
]
