"""Noise schedules in float64, and the shorter schedules that a run of S steps uses.

Shape letters: T timesteps of the trained schedule, S respaced steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", np.float64, np.int64)

SPACINGS = ("linspace", "ddim", "leading")


class NoiseSchedule:
    """The betas a network was trained with: q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I).

    Ho et al. 2020, Eq. 2; abar_t = prod_{s <= t} (1 - beta_s), Eq. 4.

    Args:
        betas: `[T]`, each above 0 and below 1; kept as float64.

    Raises:
        ValueError: `betas` is empty, not one-dimensional, or holds a value outside (0, 1).
    """

    def __init__(self, betas: Sequence[float] | npt.NDArray[np.float64]) -> None:
        values = np.array(betas, dtype=np.float64)
        if values.ndim != 1 or not values.size:
            raise ValueError(
                f"betas must be a sequence of at least one number, got shape {list(values.shape)}"
            )
        outside = ~((values > 0.0) & (values < 1.0))
        if outside.any():
            index = int(outside.argmax())
            raise ValueError(f"betas must be above 0 and below 1, got {values[index]} at timestep {index}")
        self.betas: npt.NDArray[np.float64] = _frozen(values)
        self.alphas_cumprod: npt.NDArray[np.float64] = _frozen(np.cumprod(1.0 - values, dtype=np.float64))

    @classmethod
    def linear(cls, n: int = 1000, start: float = 1e-4, end: float = 2e-2) -> NoiseSchedule:
        """Space betas evenly from `start` to `end` (Ho et al. 2020, section 4; DiT).

        Args:
            n: Timesteps T, at least 1.
            start: First beta, in (0, 1).
            end: Last beta, in (0, 1).

        Returns:
            The schedule.

        Raises:
            ValueError: `n` is below 1 or a beta lies outside (0, 1).
        """
        return cls(np.linspace(start, end, _at_least_one("n", n), dtype=np.float64))

    @classmethod
    def scaled_linear(cls, n: int = 1000, start: float = 0.00085, end: float = 0.012) -> NoiseSchedule:
        """Space square roots of betas evenly (latent diffusion: Rombach et al. 2022, released code).

        Args:
            n: Timesteps T, at least 1.
            start: First beta, in (0, 1).
            end: Last beta, in (0, 1).

        Returns:
            The schedule.

        Raises:
            ValueError: `n` is below 1 or a beta lies outside (0, 1).
        """
        if start < 0.0 or end < 0.0:
            raise ValueError(f"betas must be above 0 and below 1, got start {start} and end {end}")
        roots = np.linspace(start**0.5, end**0.5, _at_least_one("n", n), dtype=np.float64)
        return cls(roots**2)

    def respaced(self, steps: int, spacing: str = "linspace", *, offset: int = 0) -> RespacedSchedule:
        """Keep `steps` of the timesteps, with betas such that abar at each is unchanged.

        beta_i = 1 - abar(S_i) / abar(S_{i-1}), abar(S_{-1}) = 1 (Nichol & Dhariwal 2021, section 4).

        Args:
            steps: S, from 1 to T.
            spacing: "linspace" visits S_i = round(i (T - 1) / (S - 1)), as the authors of DiT sample;
                "ddim" visits 0, r, 2r, ... with the smallest whole stride r that gives exactly S timesteps;
                "leading" visits offset + i floor(T / S), as diffusers' schedulers of that name do.
            offset: First timestep of "leading": diffusers' `steps_offset`, 1 for Stable Diffusion.

        Returns:
            The shorter schedule, index 0 the least noisy.

        Raises:
            ValueError: `steps`, `spacing` or `offset` is not among the allowed ones.
        """
        if not isinstance(steps, int | np.integer) or not 1 <= steps <= len(self.betas):
            raise ValueError(f"steps must be a whole number from 1 to {len(self.betas)}, got {steps!r}")
        if offset and spacing != "leading":
            raise ValueError(f"offset must be 0 with spacing {spacing}, got {offset}")
        if spacing == "linspace":
            timesteps = _linspace_timesteps(len(self.betas), int(steps))
        elif spacing == "ddim":
            timesteps = _ddim_timesteps(len(self.betas), int(steps))
        elif spacing == "leading":
            timesteps = _leading_timesteps(len(self.betas), int(steps), offset)
        else:
            raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
        return RespacedSchedule.from_alphas_cumprod(timesteps, self.alphas_cumprod[timesteps])

    def stop_index(self, t_stop: int, *, of: int, steps: int, spacing: str = "linspace") -> int:
        """Find the `t_stop` at which a run stops guiding at the same noise as a run of `of` steps.

        Guidance acts on the steps that are noisier than the timestep with index `t_stop` among `of`. Index 25
        of 50 steps is timestep 510, and 10 of 20 steps are noisier than that.

        Args:
            t_stop: Index in the run of `of` steps, at least 0; from `of` - 1 on, no step is guided.
            of: Steps that `t_stop` counts in, from 1 to T.
            steps: Steps of the run, from 1 to T.
            spacing: Of both, see `respaced`.

        Returns:
            The largest respaced index of the run that is not noisier, from 0; `t_stop` itself where `of` is
            `steps`.

        Raises:
            ValueError: `t_stop` is negative, or a number of steps or the spacing is not allowed.
        """
        if t_stop < 0:
            raise ValueError(f"t_stop must be at least 0, got {t_stop}")
        counted, run = self.respaced(of, spacing), self.respaced(steps, spacing)
        if of == steps:
            return t_stop
        if t_stop >= of:
            return steps
        return int(np.searchsorted(run.timesteps, counted.timesteps[t_stop], side="right")) - 1

    def __len__(self) -> int:
        return len(self.betas)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoiseSchedule) and np.array_equal(self.betas, other.betas)

    def __hash__(self) -> int:
        return hash(self.betas.tobytes())

    def __repr__(self) -> str:
        return f"NoiseSchedule({len(self.betas)} betas, {self.betas[0]:.6g} .. {self.betas[-1]:.6g})"


@dataclass(frozen=True, eq=False)
class RespacedSchedule:
    """The schedule of one run; every array is `[S]`, float64 unless said otherwise.

    Args:
        timesteps: int64; S_i, the timestep of the trained schedule that the network is told at step i.
        betas: Variance that respaced step i adds.
        alphas_cumprod: abar_i.
        alphas_cumprod_prev: abar_{i-1}, 1 at i = 0.
        posterior_variance: betatilde_i = beta_i (1 - abar_{i-1}) / (1 - abar_i) (Ho et al. 2020, Eq. 7).
        posterior_log_variance_clipped: log betatilde_i, with betatilde_1 in place of betatilde_0 = 0 (with
            a single step, beta_0).
        posterior_mean_x0: Coefficient of x0 in the posterior mean (Ho et al. 2020, Eq. 7).
        posterior_mean_xt: Coefficient of x_t in it.
    """

    timesteps: npt.NDArray[np.int64]
    betas: npt.NDArray[np.float64]
    alphas_cumprod: npt.NDArray[np.float64]
    alphas_cumprod_prev: npt.NDArray[np.float64]
    posterior_variance: npt.NDArray[np.float64]
    posterior_log_variance_clipped: npt.NDArray[np.float64]
    posterior_mean_x0: npt.NDArray[np.float64]
    posterior_mean_xt: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.timesteps)

    @classmethod
    def from_alphas_cumprod(
        cls, timesteps: npt.NDArray[np.int64], abar: npt.NDArray[np.float64]
    ) -> RespacedSchedule:
        """Derive every array from abar at the kept timesteps.

        Args:
            timesteps: int64 `[S]`, increasing.
            abar: float64 `[S]`, strictly decreasing, in (0, 1).

        Returns:
            The schedule.
        """
        previous = np.concatenate([[1.0], abar[:-1]])
        betas = 1.0 - abar / previous
        variance = betas * (1.0 - previous) / (1.0 - abar)
        clipped = np.concatenate([variance[1:2] if len(abar) > 1 else betas, variance[1:]])
        return cls(
            timesteps=_frozen(timesteps),
            betas=_frozen(betas),
            alphas_cumprod=_frozen(abar),
            alphas_cumprod_prev=_frozen(previous),
            posterior_variance=_frozen(variance),
            posterior_log_variance_clipped=_frozen(np.log(clipped)),
            posterior_mean_x0=_frozen(betas * np.sqrt(previous) / (1.0 - abar)),
            posterior_mean_xt=_frozen((1.0 - previous) * np.sqrt(1.0 - betas) / (1.0 - abar)),
        )


def _linspace_timesteps(n: int, steps: int) -> Int64Array:
    """Round the multiples of (n - 1) / (steps - 1); one step alone is timestep 0, as in the original."""
    stride = (n - 1) / (steps - 1) if steps > 1 else 1.0
    timesteps, place = [], 0.0
    # The original adds the stride up instead of multiplying; the last bit of the sum decides some roundings.
    for _ in range(steps):
        timesteps.append(round(place))
        place += stride
    return np.array(timesteps, dtype=np.int64)


def _ddim_timesteps(n: int, steps: int) -> Int64Array:
    for stride in range(1, n + 1):
        if len(range(0, n, stride)) == steps:
            return np.arange(0, n, stride, dtype=np.int64)
    counts = {len(range(0, n, stride)) for stride in range(1, n + 1)}
    near = f"{max(c for c in counts if c < steps)} or {min(c for c in counts if c > steps)}"
    raise ValueError(
        f"steps must divide {n} timesteps by a whole stride for spacing ddim (as {near}), got {steps}"
    )


def _leading_timesteps(n: int, steps: int, offset: int) -> Int64Array:
    timesteps = np.arange(steps, dtype=np.int64) * (n // steps) + offset
    if offset < 0 or timesteps[-1] >= n:
        most = n - 1 - (steps - 1) * (n // steps)
        raise ValueError(f"offset must be from 0 to {most} for {steps} steps of {n} timesteps, got {offset}")
    return timesteps


def _frozen(values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    values = values.copy()
    values.setflags(write=False)
    return values


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
