"""The noise schedule of a network's training, as our folders and diffusers' pipelines state it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mgd3_engine import NoiseSchedule
from mgd3_fast.errors import UserError

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
_BETAS = {"linear": NoiseSchedule.linear, "scaled_linear": NoiseSchedule.scaled_linear}


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


def trained_schedule(settings: dict[str, Any], place: str) -> tuple[NoiseSchedule, str]:
    """Read the noise schedule and the kind of prediction of a `scheduler_config.json`.

    Which timesteps a run visits, and by which sampler, are the run's own options: that part is left aside.

    Args:
        settings: The file's content.
        place: Where it lies, for messages.

    Returns:
        The schedule, and "epsilon" or "v".

    Raises:
        UserError: It is one that the engine does not have, or does not say.
    """
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise _refused("prediction_type", place, _PREDICTIONS, prediction)
    if settings.get("rescale_betas_zero_snr"):
        raise UserError(
            f"rescale_betas_zero_snr of {place} must be false, got true: its last abar would be 0"
        )
    betas = settings.get("trained_betas")
    try:
        if betas is not None:
            return NoiseSchedule(betas), _PREDICTIONS[prediction]
        kind = settings.get("beta_schedule")
        if kind not in _BETAS:
            raise _refused("beta_schedule", place, _BETAS, kind)
        ends = (float(settings["beta_start"]), float(settings["beta_end"]))
        timesteps = int(settings.get("num_train_timesteps", 1000))
        return _BETAS[kind](timesteps, *ends), _PREDICTIONS[prediction]
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{place} must state {error.args[0]}, got none") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{place} must hold a noise schedule: {error}") from None


def _refused(name: str, place: str, allowed: dict[str, Any], got: object) -> UserError:
    return UserError(f"{name} of {place} must be {' or '.join(allowed)}, got {got!r}")
