"""Settings that are worth a trial, likely ones first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from mgd3_fast.config import SamplingDefaults

# (mode scale of the posterior form, share of the steps that are not guided); docs/ablations.md has what
# each of them is worth where latents are small.
_GUIDANCE = ((0.2, 0.0), (0.1, 0.0), (0.3, 0.0), (0.2, 0.5), (0.1, 0.5), (0.3, 0.5), (0.05, 0.0), (0.1, 0.2))
_CFG = ((0.2, 0.0), (0.1, 0.5))  # tried with these others as well
_CFG_FACTORS = (0.5, 1.5)
EPSILON_FACTOR = 3.0  # a scale of the posterior form moves x three times as far (`ModeGuidance`)


@dataclass(frozen=True)
class Candidate:
    """Settings under trial; `mode_scale` 0 is the generator without modes."""

    mode_scale: float
    t_stop: int
    cfg_scale: float

    @property
    def name(self) -> str:
        """Of its folders and in tables."""
        guided = f"scale-{self.mode_scale:g}-stop-{self.t_stop}" if self.mode_scale else "unguided"
        return f"{guided}-cfg-{self.cfg_scale:g}"

    def of(self, defaults: SamplingDefaults) -> dict[str, Any]:
        """A generator's defaults with these settings in place, as JSON holds them."""
        return asdict(replace(defaults, **asdict(self)))


def candidates(defaults: SamplingDefaults) -> tuple[Candidate, ...]:
    """List what is tried for a generator: its present defaults first, then unguided, then likely ones.

    Args:
        defaults: The generator's settings; steps and sampler stay.
    """
    factor = 1.0 if defaults.sampler == "ddpm" else EPSILON_FACTOR
    cfg = defaults.cfg_scale

    def guided(scale: float, share: float, cfg_scale: float) -> Candidate:
        stop = max(0, min(round(share * defaults.steps), defaults.steps - 2))
        return Candidate(round(scale * factor, 6), stop, cfg_scale)

    others = [guided(scale, share, cfg) for scale, share in _GUIDANCE]
    others += [
        guided(*pair, round(1 + (cfg - 1) * by, 6)) for by in _CFG_FACTORS for pair in _CFG if cfg != 1.0
    ]
    present = Candidate(defaults.mode_scale, defaults.t_stop if defaults.mode_scale else 0, cfg)
    return tuple(dict.fromkeys([present, Candidate(0.0, 0, cfg), *others]))
