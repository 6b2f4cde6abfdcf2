"""The noise schedule of a network's training, as our folders and diffusers' pipelines state it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mgd3_engine import NoiseSchedule
from mgd3_fast.errors import UserError
from mgd3_fast.generators.hub import SCHEDULER, ModelFiles

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
_BETAS = {"linear": NoiseSchedule.linear, "scaled_linear": NoiseSchedule.scaled_linear}
_COSINE, _SIGMOID = "squaredcos_cap_v2", "sigmoid"
_LARGEST_BETA = 0.999


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """A noise schedule by name, as a file can hold it.

    Args:
        kind: "linear" or "scaled_linear".
        timesteps: Timesteps of the training.
        start: First beta.
        end: Last beta.
    """

    kind: str = "linear"
    timesteps: int = 1000
    start: float = 1e-4
    end: float = 2e-2

    def build(self) -> NoiseSchedule:
        """Compute the betas.

        Raises:
            ValueError: The kind is unknown or a beta out of range.
        """
        if self.kind not in _BETAS:
            raise ValueError(f"schedule kind must be one of {', '.join(_BETAS)}, got {self.kind!r}")
        return _BETAS[self.kind](self.timesteps, self.start, self.end)


@dataclass(frozen=True)
class Training:
    """What a network was trained on, as far as sampling needs it.

    Args:
        schedule: The noise schedule.
        prediction: "epsilon" or "v".
        notes: What the pipeline's own scheduler does, and the sampler here does not.
    """

    schedule: NoiseSchedule
    prediction: str = "epsilon"
    notes: tuple[str, ...] = ()


def training_of(files: ModelFiles) -> Training | None:
    """Read the `scheduler_config.json` of a pipeline.

    Which timesteps a run visits, and by which sampler, are the run's own options: that part is left aside.

    Args:
        files: Of the pipeline.

    Returns:
        What it says; None where there is no such file.

    Raises:
        UserError: It is one that the engine does not have, or does not say.
    """
    settings, place = files.find_settings(SCHEDULER), f"{files.source}/{SCHEDULER}"
    if settings is None:
        return None
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise _refused("prediction_type", place, _PREDICTIONS, prediction)
    if settings.get("rescale_betas_zero_snr"):
        raise UserError(
            f"rescale_betas_zero_snr of {place} must be false, got true: its last abar would be 0"
        )
    try:
        schedule = _schedule(settings, place)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{place} must state {error.args[0]}, got none") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{place} must hold a noise schedule: {error}") from None
    clipping = [name for name in ("clip_sample", "thresholding") if settings.get(name)]
    notes = [f"{place} says {name}, for pixels in -1..1: latents are not clipped here" for name in clipping]
    return Training(schedule, _PREDICTIONS[prediction], tuple(notes))


def _schedule(settings: dict[str, Any], place: str) -> NoiseSchedule:
    betas = settings.get("trained_betas")
    if betas is not None:
        return NoiseSchedule(betas)
    kind, timesteps = settings.get("beta_schedule"), int(settings.get("num_train_timesteps", 1000))
    if kind == _COSINE:
        return cosine_schedule(timesteps)
    if kind not in (*_BETAS, _SIGMOID):
        raise _refused("beta_schedule", place, (*_BETAS, _COSINE, _SIGMOID), kind)
    start, end = float(settings["beta_start"]), float(settings["beta_end"])
    if kind == _SIGMOID:
        shares = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, timesteps)))
        return NoiseSchedule(shares * (end - start) + start)
    return _BETAS[kind](timesteps, start, end)


def cosine_schedule(timesteps: int) -> NoiseSchedule:
    """Compute abar(t) = cos^2(((t / T + 0.008) / 1.008) pi / 2) (Nichol & Dhariwal 2021, Eq. 17).

    beta_t = 1 - abar(t + 1) / abar(t), at most 0.999.
    """
    angles = (np.arange(timesteps + 1, dtype=np.float64) / timesteps + 0.008) / 1.008 * np.pi / 2
    abar = np.cos(angles) ** 2
    return NoiseSchedule(np.minimum(1.0 - abar[1:] / abar[:-1], _LARGEST_BETA))


def _refused(name: str, place: str, allowed: Any, got: object) -> UserError:
    *rest, last = allowed
    return UserError(f"{name} of {place} must be {', '.join(rest)} or {last}, got {got!r}")
