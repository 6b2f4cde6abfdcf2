"""Mode guidance as a diffusers scheduler: set `pipe.scheduler`, and the pipeline is mode-guided.

    from mgd3_fast.integrations.diffusers import ModeGuidedScheduler

    base = DDPMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.scheduler = ModeGuidedScheduler(base, modes=modes, guidance=ModeGuidance(0.1, t_stop=25))
    images = pipe(class_labels=class_ids, num_inference_steps=50).images

Shape letters: N images, R rows of a step (N, or 2N where the pipeline steps both halves of classifier-free
guidance), C channels, H W latent size, S steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mgd3_engine import ModeGuidance
from mgd3_engine.sampling.phases import check_guides

DEFAULT_GUIDANCE = ModeGuidance()
LARGE_VARIANCES = ("fixed_large", "fixed_large_log")
SMALL_VARIANCES = ("fixed_small", "fixed_small_log")


class ModeGuidedScheduler:
    """A DDPM or DDIM scheduler of diffusers whose steps pull every image to its own mode (MGD3).

    Everything but `step` is the base scheduler's own: timesteps, config, noise. A step without guidance is
    the base's to the byte. The forms `epsilon` and `x0` change what the network predicted before the base's
    step, `posterior` adds lambda sigma (m - x0) after it, with the sigma of the base's DDPM step (see
    `mgd3_engine.ModeGuidance`). At a timestep whose abar is 0, the first of a schedule that was rescaled to
    zero terminal SNR, the sample holds nothing of x0: form `epsilon`, whose move of x0 grows as
    1 / sqrt(abar), is not defined there and that step is the base's own. Diffusers' pipelines mix all
    channels in classifier-free guidance, and `DiTPipeline` drops the learned variance: its pictures differ
    from `GuidedSampler`'s with 3 channels.

    The modes belong to a run: give `pipe.scheduler.modes` new ones before the next call, and set
    `pipe.scheduler = scheduler.base` before the pipeline is saved.

    Args:
        base: diffusers' `DDPMScheduler` or `DDIMScheduler` with `clip_sample` and `thresholding` off.
        modes: float32 `[N, C, H, W]`, one for each image of a call in order, in the units of the latents.
        guidance: Scale, stop (as an index of the S steps of a call) and form.

    Raises:
        ValueError: `base` is another scheduler or clips, or `modes` is not finite float `[N, C, H, W]`. A
            step raises it where `guidance` acts on no step of the call, and a guided one where the network
            returned NaN or infinity, or predicts the noise of a sample that is nothing else.
    """

    def __init__(self, base: Any, *, modes: Tensor, guidance: ModeGuidance = DEFAULT_GUIDANCE) -> None:
        self.base = base
        self.guidance = guidance.resolve(_method_of(base))
        self.modes = modes

    @property
    def modes(self) -> Tensor:
        """Modes of the next call, `[N, C, H, W]`."""
        return self._modes

    @modes.setter
    def modes(self, modes: Tensor) -> None:
        if modes.ndim != 4 or not modes.is_floating_point() or not torch.isfinite(modes).all():
            raise ValueError(
                f"modes must be finite float [N, C, H, W], got {modes.dtype} {list(modes.shape)}"
            )
        self._modes = modes

    @property
    def step(self) -> Callable[..., Any]:
        """One reverse step: the base's arguments, which pipelines inspect, and what the base returns."""

        @functools.wraps(self.base.step)
        def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            return self._step(model_output, timestep, sample, *args, **kwargs)

        return step

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # while a copy or a pickle is being put together
            raise AttributeError(name)
        return getattr(self.base, name)

    def __len__(self) -> int:
        return len(self.base)

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Step the base scheduler, pulled to the modes where this step is guided."""
        step = self._respaced_index(timestep)
        steps = len(self.base.timesteps)
        stop = self.guidance.stop(steps)
        if self.guidance.scale != 0.0:
            check_guides(stop, steps - 1)
        if step <= stop or self.guidance.scale == 0.0:
            return self.base.step(model_output, timestep, sample, *args, **kwargs)
        _check_finite(model_output, sample, int(timestep))
        moments = self._moments(int(timestep))
        if moments.abar == 0.0 and self.base.config.prediction_type == "epsilon":
            raise ValueError(
                f"prediction_type must be v_prediction or sample at timestep {int(timestep)}, got epsilon:"
                " with rescale_betas_zero_snr nothing but noise is left there"
            )
        if moments.abar == 0.0 and self.guidance.form == "epsilon":
            return self.base.step(model_output, timestep, sample, *args, **kwargs)
        channels = sample.shape[1]
        prediction, variance = model_output[:, :channels].float(), model_output[:, channels:].float()
        x0 = self._x0(prediction, sample.float(), moments.abar)
        gap = self._row_modes(sample) - x0  # [R, C, H, W]
        if self.guidance.form == "posterior":
            push = self.guidance.scale * self._sigma(moments, variance) * gap
            return _pushed(self.base.step(model_output, timestep, sample, *args, **kwargs), push)
        moved = self._moved_prediction(prediction, gap, moments.abar).to(model_output.dtype)
        moved = torch.cat([moved, model_output[:, channels:]], dim=1)
        return self.base.step(moved, timestep, sample, *args, **kwargs)

    def _respaced_index(self, timestep: Any) -> int:
        """Return i of a timestep: S-1 for the first of a call, 0 for the last."""
        places = (self.base.timesteps == int(timestep)).nonzero()
        if not len(places):
            raise ValueError(f"timestep must be one that set_timesteps chose, got {int(timestep)}")
        return len(self.base.timesteps) - 1 - int(places[0])

    def _moments(self, timestep: int) -> Moments:
        """Read abar_t and abar_{t-1} as the base's own step does (its DDIM counts back by a fixed stride)."""
        config, abars = self.base.config, self.base.alphas_cumprod
        if _method_of(self.base) == "ddim":
            previous = timestep - config.num_train_timesteps // self.base.num_inference_steps
            last = self.base.final_alpha_cumprod
        else:
            previous, last = int(self.base.previous_timestep(timestep)), self.base.one
        abar, abar_prev = float(abars[timestep]), float(abars[previous] if previous >= 0 else last)
        beta = 1.0 - abar / abar_prev
        return Moments(abar, beta, beta * (1.0 - abar_prev) / (1.0 - abar))

    def _x0(self, prediction: Tensor, sample: Tensor, abar: float) -> Tensor:
        """Predict the clean latent `[R, C, H, W]` from what the network returned."""
        kind = self.base.config.prediction_type
        if kind == "epsilon":
            return (sample - math.sqrt(1.0 - abar) * prediction) / math.sqrt(abar)
        if kind == "v_prediction":
            return math.sqrt(abar) * sample - math.sqrt(1.0 - abar) * prediction
        return prediction

    def _moved_prediction(self, prediction: Tensor, gap: Tensor, abar: float) -> Tensor:
        """Change a prediction so that x0 moves as the form says (`mgd3_engine.step_table`).

        At fixed x_t, a move d of x0 moves eps by -sqrt(abar / (1 - abar)) d and v by -d / sqrt(1 - abar).
        """
        shift = self.guidance.scale * gap
        if self.guidance.form == "epsilon":
            shift = shift * ((1.0 - abar) / math.sqrt(abar))
        kind = self.base.config.prediction_type
        if kind == "epsilon":
            return prediction - math.sqrt(abar / (1.0 - abar)) * shift
        if kind == "v_prediction":
            return prediction - shift / math.sqrt(1.0 - abar)
        return prediction + shift

    def _sigma(self, moments: Moments, variance: Tensor) -> Tensor | float:
        """Return the standard deviation of the DDPM step: a number, or `[R, C, H, W]` where it is learned."""
        kind = getattr(self.base.config, "variance_type", "fixed_small")
        if kind in LARGE_VARIANCES:
            return math.sqrt(moments.beta)
        if kind in SMALL_VARIANCES or not variance.shape[1]:
            return math.sqrt(moments.posterior_variance)
        fraction = (variance + 1.0) / 2.0
        log_variance = fraction * math.log(moments.beta) + (1.0 - fraction) * math.log(
            moments.posterior_variance
        )
        return torch.exp(0.5 * log_variance)

    def _row_modes(self, sample: Tensor) -> Tensor:
        """Give every row of a step its mode, `[R, C, H, W]`; both halves of a doubled batch the same."""
        modes, N = self._modes, len(self._modes)
        doubled = len(sample) == 2 * N and torch.equal(sample[:N], sample[N:])
        if modes.shape[1:] != sample.shape[1:] or not (doubled or len(sample) == N):
            raise ValueError(
                f"modes must be {list(sample.shape)}, one for each image of the call (half as many where the"
                f" pipeline doubles the batch), got {list(modes.shape)}"
            )
        modes = modes.to(device=sample.device, dtype=torch.float32)
        return torch.cat([modes, modes]) if doubled else modes


class Moments(NamedTuple):
    """What a step is made of: abar at its timestep, and two variances."""

    abar: float
    beta: float  # that the forward step adds
    posterior_variance: float  # betatilde (Ho et al. 2020, Eq. 7)


def _check_finite(model_output: Tensor, sample: Tensor, timestep: int) -> None:
    for name, tensor in (("output of the network", model_output), ("sample", sample)):
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"the {name} at timestep {timestep} holds NaN or infinity: the network overflows in"
                f" {tensor.dtype}, or a scale is too large"
            )


def _method_of(base: Any) -> str:
    """Tell DDPM from DDIM, and refuse what neither is or what would clip latents."""
    from diffusers import DDIMScheduler, DDPMScheduler

    if not isinstance(base, (DDPMScheduler, DDIMScheduler)):
        raise ValueError(f"base must be a DDPMScheduler or a DDIMScheduler, got {type(base).__name__}")
    config = base.config
    if config.clip_sample or config.thresholding:
        raise ValueError(
            "base must have clip_sample and thresholding off, for latents are not bounded,"
            f" got clip_sample={config.clip_sample} and thresholding={config.thresholding}"
        )
    if getattr(config, "variance_type", None) == "learned":
        raise ValueError("base must have a fixed or learned_range variance_type, got learned")
    return "ddim" if isinstance(base, DDIMScheduler) else "ddpm"


def _pushed(result: Any, push: Tensor) -> Any:
    """Add to the previous sample of what a scheduler's step returned, a tuple or an output object."""
    if isinstance(result, tuple):
        return (result[0] + push.to(result[0].dtype), *result[1:])
    result.prev_sample = result.prev_sample + push.to(result.prev_sample.dtype)
    return result
