"""What pulls a sample while it is denoised: the mode term, and the protocol of any further term.

Shape letters: B images of the batch, C channels, H W latent size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

FORMS = ("posterior", "epsilon", "x0")
AUTO_FORM = {"ddpm": "posterior", "ddim": "epsilon", "dpmpp": "epsilon", "dpmpp-sde": "epsilon"}


@dataclass(frozen=True)
class ModeGuidance:
    """Pull every image to its own mode m of the latent distribution, with g = m - x0 (MGD3, Eq. 5).

    Equal scales of different forms are not equally strong: summed over the 24 guided of 50 steps, one unit
    of lambda g moves x by 12.3 (`posterior`, ddpm), 4.05 (`epsilon`, ddim) or 0.27 (`x0`, ddim).

    Args:
        scale: lambda, at least 0; 0.1 in the paper.
        t_stop: Guide on the steps whose respaced index i is above this. Indices count down from S - 1 to 0.
            Of 50 steps, 25 guides the first 24, and 0 guides all but the last; 49 and more would guide none
            and are refused. None is half of the steps. `NoiseSchedule.stop_index` finds the index with the
            same noise in a run of another number of steps.
        form: "posterior" (x_{i-1} += lambda sigma g: the authors' DDPM sampler), "epsilon"
            (eps -= sqrt(1 - abar) lambda g: MGD3, Algorithm 1), "x0" (x0 += lambda g, eps recomputed), or
            "auto": posterior for ddpm, epsilon for the others.

    Raises:
        ValueError: A value is out of range.
    """

    scale: float = 0.1
    t_stop: int | None = None
    form: str = "auto"

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale < 0.0:
            raise ValueError(f"mode scale must be a finite number of at least 0, got {self.scale}")
        if self.t_stop is not None and (type(self.t_stop) is not int or self.t_stop < 0):
            raise ValueError(f"t_stop must be a whole number of at least 0, got {self.t_stop!r}")
        if self.form not in ("auto", *FORMS):
            raise ValueError(f"guidance form must be one of auto, {', '.join(FORMS)}, got {self.form!r}")

    def stop(self, steps: int) -> int:
        """Tell the `t_stop` of a run.

        Args:
            steps: S, of the whole run.

        Returns:
            `t_stop` as it was given; where it is None, S / 2 rounded down, or S - 2 where that is lower, so
            that at least one step is guided.
        """
        return max(0, min(steps // 2, steps - 2)) if self.t_stop is None else self.t_stop

    def resolve(self, method: str, steps: int | None = None) -> ModeGuidance:
        """Replace the form "auto" by the one that suits a sampler, and a `t_stop` of None by its number.

        Args:
            method: One of `METHODS`.
            steps: S, of the whole run; None where it is not known yet, which leaves `t_stop`.

        Returns:
            The same guidance with what was left open.
        """
        form = AUTO_FORM.get(method, "auto") if self.form == "auto" else self.form
        return replace(self, form=form, t_stop=self.t_stop if steps is None else self.stop(steps))


@dataclass(frozen=True)
class StepState:
    """What a guidance term sees of one step of one batch, before the mode term acts; real images only.

    Args:
        x_t: float32 `[B, C, H, W]`; the leaf to differentiate by, where the term needs a gradient.
        x0: float32 `[B, C, H, W]`: the predicted clean latent, after classifier-free guidance.
        eps: float32 `[B, C, H, W]`: the noise that x_t then holds, (x_t - sqrt(abar) x0) / sqrt(1 - abar).
        mean: float32 `[B, C, H, W]`: x_{i-1} before guidance terms and noise.
        sigma: float32 `[B, C, H, W]`: standard deviation of the DDPM step, under every method.
        step: Respaced index i, S-1 down to 0.
        timestep: S_i, the timestep that the network was told.
        class_ids: int64 `[B]`.
        modes: float32 `[B, C, H, W]`, or None in a run without modes.
        image_index: int64 `[B]` on the CPU: place of each image in the call of `sample`.
    """

    x_t: Tensor
    x0: Tensor
    eps: Tensor
    mean: Tensor
    sigma: Tensor
    step: int
    timestep: int
    class_ids: Tensor
    modes: Tensor | None
    image_index: Tensor


@runtime_checkable
class GuidanceTerm(Protocol):
    """Further guidance: a function of a step's state that returns what to add to x_{i-1}.

    `needs_grad`: the network runs with gradients, so that `torch.autograd.grad(energy(state.x0), state.x_t)`
    works; costs about twice the time and the activations' memory. `needs_group`: all images of a class that
    one call of `sample` asks for are denoised in the same batch.

    A term is evaluated on every step, in plain torch beside the fused step, and decides from `state.step`
    whether it acts.
    """

    @property
    def needs_grad(self) -> bool:
        """Whether the term differentiates through the network."""
        ...

    @property
    def needs_group(self) -> bool:
        """Whether the term needs all images of a class in one batch."""
        ...

    def __call__(self, state: StepState) -> Tensor:
        """Compute what the term adds.

        Args:
            state: The step; its tensors are not to be changed.

        Returns:
            The delta on x_{i-1}, float32 `[B, C, H, W]`.
        """
        ...
