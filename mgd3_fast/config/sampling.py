"""How a generator is sampled unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What a generator is sampled with unless told otherwise; the values here are MGD3's for DiT.

    Args:
        sampler: "ddpm", "ddim", "dpmpp" or "dpmpp-sde".
        steps: Denoising steps.
        cfg_scale: Classifier-free guidance; 1 is off.
        mode_scale: Strength of mode guidance; 0 is off.
        t_stop: Guide while the step index is above this.

    Raises:
        ValueError: `steps` is below 1.
    """

    sampler: str = "ddpm"
    steps: int = 50
    cfg_scale: float = 4.0
    mode_scale: float = 0.1
    t_stop: int = 25

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
