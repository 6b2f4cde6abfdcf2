"""One training loop for every network: exact resumption, interruption between steps, whole checkpoints."""

from mgd3_fast.fit.loop import Fit, Stateful, descend, load_checkpoint, save_checkpoint, steps_done
from mgd3_fast.fit.randomness import EpochOrder, step_generator
from mgd3_fast.fit.schedules import rate_share

__all__ = [
    "EpochOrder",
    "Fit",
    "Stateful",
    "descend",
    "load_checkpoint",
    "rate_share",
    "save_checkpoint",
    "step_generator",
    "steps_done",
]
