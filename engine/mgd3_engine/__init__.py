"""Mode-guided diffusion sampling on any class-conditional denoiser."""

from __future__ import annotations

from mgd3_engine.coefficients import step_table
from mgd3_engine.guidance import GuidanceTerm, ModeGuidance, StepState
from mgd3_engine.schedule import NoiseSchedule, RespacedSchedule
from mgd3_engine.seeds import image_seed, image_seeds

__all__ = [
    "GuidanceTerm",
    "ModeGuidance",
    "NoiseSchedule",
    "RespacedSchedule",
    "StepState",
    "image_seed",
    "image_seeds",
    "step_table",
]
