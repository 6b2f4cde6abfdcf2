"""The one place where sampler, prediction, variance and mode guidance become numbers.

Shape letters: S respaced steps. Symbols: abar = abar_i, abar' = abar_{i-1}, beta = beta_i, all of the
respaced schedule; lambda the mode scale; m the mode; g = m - x0.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from mgd3_engine.sampling.guidance import ModeGuidance
from mgd3_engine.sampling.schedule import Float64Array, RespacedSchedule
from mgd3_kernels import Coefficient

METHODS = ("ddpm", "ddim", "dpmpp", "dpmpp-sde")
NOISY_METHODS = ("ddpm", "dpmpp-sde")
MULTISTEP_METHODS = ("dpmpp", "dpmpp-sde")
PREDICTIONS = ("epsilon", "v")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")


def step_table(
    respaced: RespacedSchedule,
    *,
    method: str = "ddpm",
    eta: float = 0.0,
    prediction: str = "epsilon",
    variance: str = "fixed_small",
    guidance: ModeGuidance | None = None,
    first_order: Collection[int] = (),
) -> Tensor:
    """Write every step of a run as one row of numbers for the fused step (`mgd3_kernels.Coefficient`).

    Clean latent from the network's output:

    - `epsilon`: x0 = x / sqrt(abar) - sqrt(1/abar - 1) out (Ho et al. 2020, Eq. 15).
    - `v`: x0 = sqrt(abar) x - sqrt(1 - abar) out (Salimans & Ho 2022, appendix D).

    Reverse step:

    - `ddpm`: x_{i-1} = c(x0) x0 + c(x_t) x + sigma z, no noise at i = 0 (Ho et al. 2020, Eq. 7).
    - `ddim`: x_{i-1} = sqrt(abar') x0 + sqrt(1 - abar' - s^2) eps + s z, with
      s = eta sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar') (Song et al. 2021, Eq. 12 and 16);
      eps = (x - sqrt(abar) x0) / sqrt(1 - abar) is eliminated, so that a moved x0 moves eps with it.
    - `dpmpp`: DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2). With a = sqrt(abar), s = sqrt(1 - abar),
      l = log(a / s), h = l' - l and r = (l - l_{i+1}) / h:
      x_{i-1} = (s' / s) x + a' (1 - e^-h) D, D = x0 + (x0 - x0_{i+1}) / (2 r).
    - `dpmpp-sde`: its SDE (ibid., section 5):
      x_{i-1} = (s' / s) e^-h x + a' (1 - e^-2h) D + s' sqrt(1 - e^-2h) z.
      D is x0, the first order, at i = S - 1 and at i = 0, where h is infinite and x_{i-1} = x0.

    Variance sigma^2, also of the `posterior` form under the methods without it:

    - `fixed_small`: betatilde (Ho et al. 2020, Eq. 7). `fixed_large`: beta (ibid., section 3.2).
    - `learned_range`: between the two in the logarithm (Nichol & Dhariwal 2021, Eq. 15).

    Mode guidance, on the steps with i > t_stop:

    - `posterior`: x_{i-1} += lambda sigma g (MGD3, section 3.2; the authors' DDPM sampler).
    - `epsilon`: eps' = eps - sqrt(1 - abar) lambda g (MGD3, Algorithm 1), which is
      x0' = x0 + lambda (1 - abar) / sqrt(abar) g.
    - `x0`: x0' = x0 + lambda g, with eps recomputed.

    Args:
        respaced: The schedule of the run.
        method: "ddpm", "ddim", "dpmpp" or "dpmpp-sde".
        eta: Noise of ddim, from 0 (none) to 1; 0 for the others.
        prediction: What the network predicts, "epsilon" or "v".
        variance: "fixed_small", "fixed_large" or "learned_range".
        guidance: None for a run without modes.
        first_order: Further steps that `dpmpp` and `dpmpp-sde` take in first order: the first step of a run
            that begins later, and those where guidance sets in or ends, since x0 jumps there.

    Returns:
        float32 `[S, len(Coefficient)]`, computed in float64 and rounded once.

    Raises:
        ValueError: An option is not among the allowed ones, or `eta` is out of range.
    """
    _check_options(method, eta, prediction, variance)
    columns = dict.fromkeys(Coefficient, np.zeros(len(respaced)))
    columns.update(_x0_columns(respaced, prediction))
    if method == "ddpm":
        columns.update(_ddpm_columns(respaced))
    elif method == "ddim":
        columns.update(_ddim_columns(respaced, eta))
    else:
        columns.update(_dpmpp_columns(respaced, method == "dpmpp-sde", first_order))
    columns.update(_variance_columns(respaced, variance))
    if guidance is not None:
        columns.update(_guidance_columns(respaced, guidance.resolve(method, len(respaced))))
    return torch.from_numpy(np.stack([columns[c] for c in Coefficient], axis=1)).to(torch.float32)


def _x0_columns(respaced: RespacedSchedule, prediction: str) -> dict[Coefficient, Float64Array]:
    abar = respaced.alphas_cumprod
    if prediction == "epsilon":
        return {
            Coefficient.X0_FROM_X: 1.0 / np.sqrt(abar),
            Coefficient.X0_FROM_OUT: -np.sqrt(1.0 / abar - 1.0),
        }
    return {Coefficient.X0_FROM_X: np.sqrt(abar), Coefficient.X0_FROM_OUT: -np.sqrt(1.0 - abar)}


def _ddpm_columns(respaced: RespacedSchedule) -> dict[Coefficient, Float64Array]:
    return {
        Coefficient.NEXT_FROM_X0: respaced.posterior_mean_x0,
        Coefficient.NEXT_FROM_X: respaced.posterior_mean_xt,
        Coefficient.NOISE_SIGMA: np.where(np.arange(len(respaced)) > 0, 1.0, 0.0),
    }


def _ddim_columns(respaced: RespacedSchedule, eta: float) -> dict[Coefficient, Float64Array]:
    abar, previous = respaced.alphas_cumprod, respaced.alphas_cumprod_prev
    std = eta * np.sqrt((1.0 - previous) / (1.0 - abar)) * np.sqrt(1.0 - abar / previous)
    # At eta = 1 the difference is exactly 0 at i = 0 and must not round below it.
    eps_weight = np.sqrt(np.maximum(1.0 - previous - std**2, 0.0))
    return {
        Coefficient.NEXT_FROM_X0: np.sqrt(previous) - eps_weight * np.sqrt(abar / (1.0 - abar)),
        Coefficient.NEXT_FROM_X: eps_weight / np.sqrt(1.0 - abar),
        Coefficient.NOISE_STD: std,
    }


def _dpmpp_columns(
    respaced: RespacedSchedule, stochastic: bool, first_order: Collection[int]
) -> dict[Coefficient, Float64Array]:
    a, s = np.sqrt(respaced.alphas_cumprod), np.sqrt(1.0 - respaced.alphas_cumprod)
    next_a, next_s = np.sqrt(respaced.alphas_cumprod_prev), np.sqrt(1.0 - respaced.alphas_cumprod_prev)
    decay = next_s / next_a * a / s  # e^-h, 0 at i = 0
    half_slope = np.zeros(len(respaced))  # 1 / (2 r)
    log_snr = np.log(a / s)
    gaps = log_snr[:-1] - log_snr[1:]  # h of step i + 1, in the order of i
    half_slope[1:-1] = gaps[:-1] / (2.0 * gaps[1:])
    half_slope[list(first_order)] = 0.0
    weight = next_a * (1.0 - (decay**2 if stochastic else decay))
    return {
        Coefficient.NEXT_FROM_X0: weight * (1.0 + half_slope),
        Coefficient.NEXT_FROM_X: next_s / s * (decay if stochastic else 1.0),
        Coefficient.NEXT_FROM_PREVIOUS: -weight * half_slope,
        Coefficient.NOISE_STD: next_s * np.sqrt(1.0 - decay**2) if stochastic else np.zeros(len(respaced)),
    }


def _variance_columns(respaced: RespacedSchedule, variance: str) -> dict[Coefficient, Float64Array]:
    small, log_beta = respaced.posterior_log_variance_clipped, np.log(respaced.betas)
    # The original's large variance is clipped like the small one: betatilde_1 in place of beta_0.
    large = np.concatenate([small[:1], log_beta[1:]])
    return {
        Coefficient.LOG_VAR_MIN: large if variance == "fixed_large" else small,
        Coefficient.LOG_VAR_MAX: log_beta,
    }


def _guidance_columns(respaced: RespacedSchedule, guidance: ModeGuidance) -> dict[Coefficient, Float64Array]:
    abar = respaced.alphas_cumprod
    scale = np.where(np.arange(len(respaced)) > guidance.stop(len(respaced)), guidance.scale, 0.0)
    if guidance.form == "posterior":
        return {Coefficient.PUSH: scale}
    if guidance.form == "epsilon":
        return {Coefficient.X0_SHIFT: scale * (1.0 - abar) / np.sqrt(abar)}
    return {Coefficient.X0_SHIFT: scale}


def _check_options(method: str, eta: float, prediction: str, variance: str) -> None:
    for name, value, allowed in (
        ("method", method, METHODS),
        ("prediction", prediction, PREDICTIONS),
        ("variance", variance, VARIANCES),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be from 0 to 1, got {eta}")
    if method == "ddpm" and eta != 0.0:
        raise ValueError(f"eta must be 0 for ddpm, which has its own noise, got {eta}")
    if method in MULTISTEP_METHODS and eta != 0.0:
        raise ValueError(f"eta must be 0 for {method}, it is an option of ddim, got {eta}")
