"""What a denoiser learns: the noise and, with learned variance, how sure to be of each step.

Shape letters: B images, C channels, H W latent size, T timesteps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mgd3_engine import Denoiser, NoiseSchedule


class DiffusionLoss:
    """Simple loss, plus the variational bound for the variance channels.

    simple = E |eps - eps_theta(x_t, t)|^2, x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps
    (Ho et al. 2020, Eq. 14), and for a network of 2C channels
    hybrid = simple + (T / 1000) vlb (Nichol & Dhariwal 2021, Eq. 16), where vlb is, in bits per value,
    KL(q(x_{t-1} | x_t, x0) || p_theta(x_{t-1} | x_t)) for t > 0 and -log p_theta(x_0 | x_1) for t = 0
    (Ho et al. 2020, Eq. 5), with the mean of p_theta held fixed, so that vlb moves the variance alone.
    Latents are continuous: at t = 0 p_theta is the plain Gaussian density, not one over pixel levels.

    Args:
        schedule: Noise schedule of T timesteps.
        device: Where latents will be.
    """

    def __init__(self, schedule: NoiseSchedule, device: torch.device) -> None:
        full = schedule.respaced(len(schedule))

        def table(values: object) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None, None]

        abar = full.alphas_cumprod
        self.num_timesteps = len(schedule)
        self._x0_to_xt, self._noise_to_xt = table(abar**0.5), table((1 - abar) ** 0.5)
        self._xt_to_x0, self._noise_to_x0 = table(abar**-0.5), table((1 / abar - 1) ** 0.5)
        self._x0_to_mean = table(full.posterior_mean_x0)
        self._log_lowest = table(full.posterior_log_variance_clipped)
        self._log_highest = table(full.betas).log()

    def __call__(
        self, network: Denoiser, x0: Tensor, class_ids: Tensor, timestep: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            network: Predicts noise, or noise and variance, as the sampler calls it.
            x0: float32 `[B, C, H, W]`, latents in the network's units.
            class_ids: int64 `[B]`, the null class where a label is dropped.
            timestep: int64 `[B]`, in 0..T-1.
            noise: float32 `[B, C, H, W]`, unit normal.

        Returns:
            Scalars "loss" and "simple", and "vlb" for a network of 2C channels.

        Raises:
            ValueError: The network's output has neither C nor 2C channels.
        """
        xt = self._x0_to_xt[timestep] * x0 + self._noise_to_xt[timestep] * noise  # [B, C, H, W]
        out = network(xt, timestep, class_ids).float()  # [B, C or 2C, H, W]
        C = x0.shape[1]
        if out.shape[1] not in (C, 2 * C):
            raise ValueError(f"network output must have {C} or {2 * C} channels, got {out.shape[1]}")
        predicted, variance = out[:, :C], out[:, C:]
        simple = (predicted - noise).square().mean()
        if not variance.shape[1]:
            return {"loss": simple, "simple": simple}
        vlb = self._bound(predicted.detach(), variance, x0, xt, timestep).mean()
        return {"loss": simple + self.num_timesteps / 1000 * vlb, "simple": simple, "vlb": vlb}

    def _bound(self, predicted: Tensor, variance: Tensor, x0: Tensor, xt: Tensor, timestep: Tensor) -> Tensor:
        """Bits per value `[B, C, H, W]` of each image's own term of the bound."""
        low, high = self._log_lowest[timestep], self._log_highest[timestep]
        share = (variance + 1) / 2
        log_variance = share * high + (1 - share) * low  # Nichol & Dhariwal 2021, Eq. 15
        predicted_x0 = self._xt_to_x0[timestep] * xt - self._noise_to_x0[timestep] * predicted
        mean_gap = self._x0_to_mean[timestep] * (x0 - predicted_x0)
        ratio = log_variance - low
        divergence = 0.5 * (ratio - 1 + (-ratio).exp() + mean_gap.square() * (-log_variance).exp())
        # The posterior mean of t = 0 is x0 itself, so mean_gap is x0 minus the network's mean there too.
        likelihood = 0.5 * (math.log(2 * math.pi) + log_variance + mean_gap.square() * (-log_variance).exp())
        first = (timestep == 0)[:, None, None, None]
        return torch.where(first, likelihood, divergence) / math.log(2)
