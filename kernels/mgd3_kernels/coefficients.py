"""Columns of the per-step coefficient table that `guided_step` reads on the device."""

from __future__ import annotations

from enum import IntEnum


class Coefficient(IntEnum):
    """Column of a float32 `[S, len(Coefficient)]` table whose row i drives the step from x_i to x_{i-1}.

    With x the state, out the network's prediction after classifier-free guidance, m the mode, v the
    learned-variance channels in [-1, 1], h the x0' of the step before and z normal noise, one step is::

        x0    = X0_FROM_X * x + X0_FROM_OUT * out
        g     = m - x0
        x0'   = x0 + X0_SHIFT * g
        sigma = exp(0.5 * (f * LOG_VAR_MAX + (1 - f) * LOG_VAR_MIN)),   f = (v + 1) / 2
        x'    = NEXT_FROM_X0 * x0' + NEXT_FROM_X * x + NEXT_FROM_PREVIOUS * h + PUSH * sigma * g
                + (NOISE_SIGMA * sigma + NOISE_STD) * z

    Without learned variance sigma = exp(0.5 * LOG_VAR_MIN). DDPM, DDIM and DPM-Solver++(2M), epsilon and v
    prediction and the three forms of mode guidance (MGD3 Eq. 6 and Algorithm 1) differ only in these numbers.
    """

    X0_FROM_X = 0
    """Clean latent from x: 1 / sqrt(abar) for epsilon prediction, sqrt(abar) for v prediction."""
    X0_FROM_OUT = 1
    """Clean latent from the network: -sqrt(1 / abar - 1) for epsilon, -sqrt(1 - abar) for v prediction."""
    X0_SHIFT = 2
    """Pull of x0 to the mode: guidance forms `epsilon` (lambda (1 - abar) / sqrt(abar)) and `x0` (lambda)."""
    NEXT_FROM_X0 = 3
    """Mean of x_{t-1} from x0': the DDPM posterior's coefficient (Ho et al. 2020, Eq. 7), or the solver's."""
    NEXT_FROM_X = 4
    """Mean of x_{t-1} from x: the DDPM posterior's coefficient, or the solver's with epsilon' eliminated."""
    PUSH = 5
    """Pull of x_{t-1} to the mode in units of sigma: guidance form `posterior` (lambda), x0 as it is."""
    LOG_VAR_MIN = 6
    """Log variance at v = -1 (the posterior's), and the whole of it when none is learned."""
    LOG_VAR_MAX = 7
    """Log variance at v = +1 (log beta; Nichol, Dhariwal 2021, Eq. 15)."""
    NOISE_SIGMA = 8
    """Noise in units of sigma: 1 for DDPM, 0 at the last step and for DDIM."""
    NOISE_STD = 9
    """Noise of fixed standard deviation: DDIM's eta term (Song et al. 2021, Eq. 16), that of the stochastic
    DPM-Solver++, else 0."""
    NEXT_FROM_PREVIOUS = 10
    """Mean of x_{t-1} from the x0' of the step before: DPM-Solver++(2M)'s second order, else 0; not read
    where there is no history."""
