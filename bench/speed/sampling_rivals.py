"""What the sampler is measured against: the authors' way, and diffusers' DiTPipeline.

Shape letters: B images, C channels, H W latent size, S steps.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mgd3_engine import Denoiser, ModeGuidance, NoiseSchedule


@torch.no_grad()
def sample_as_the_authors_do(
    network: Denoiser, class_id: Tensor, null_class: int, mode: Tensor, noise: Tensor, guidance: ModeGuidance
) -> Tensor:
    """Sample one image from two rows, x recomputed with named quantities at every step (MGD3, section 3).

    CFG 4 on three of four channels, as DiT's authors sample it.

    Args:
        network: The denoiser.
        class_id: int64 `[1]`.
        null_class: Id of the null class.
        mode: float32 `[1, C, H, W]`.
        noise: float32 `[S + 1, C, H, W]`: that of each step, the starting noise last.
        guidance: Scale and stop, in the posterior form.

    Returns:
        float32 `[1, C, H, W]`.
    """
    S, C, cfg_channels, cfg_scale = len(noise) - 1, mode.shape[1], 3, 4.0
    respaced = NoiseSchedule.linear().respaced(S)
    class_ids = torch.cat([class_id, torch.full_like(class_id, null_class)])
    x = noise[S].repeat(2, 1, 1, 1)  # [2, C, H, W]
    for i in reversed(range(S)):
        timestep = torch.full((2,), int(respaced.timesteps[i]), device=x.device)
        half = x[:1]
        out = network(torch.cat([half, half]), timestep, class_ids)
        eps, v = out[:, :C], out[:, C:]
        guided = eps[1:, :cfg_channels] + cfg_scale * (eps[:1, :cfg_channels] - eps[1:, :cfg_channels])
        eps = torch.cat([guided.repeat(2, 1, 1, 1), eps[:, cfg_channels:]], dim=1)
        low, high = float(respaced.posterior_log_variance_clipped[i]), math.log(respaced.betas[i])
        fraction = (v + 1) / 2
        sigma = torch.exp(0.5 * (fraction * high + (1 - fraction) * low))
        abar = float(respaced.alphas_cumprod[i])
        x0 = x / math.sqrt(abar) - math.sqrt(1 / abar - 1) * eps
        mean = float(respaced.posterior_mean_x0[i]) * x0 + float(respaced.posterior_mean_xt[i]) * x
        if i > guidance.stop(S):
            mean = mean + guidance.scale * sigma * (mode - x0[:1])
        x = mean + sigma * noise[i] if i else mean
    return x[:1]


class KeptLatents:
    """Stands where a pipeline has its autoencoder and keeps what it was to decode."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(scaling_factor=1.0)
        self.latents = torch.empty(0)

    def decode(self, latents: Tensor) -> Any:
        self.latents = latents
        return SimpleNamespace(sample=latents)


class DiTPipelineLatents:
    """diffusers' DiTPipeline up to its latents; its null class is 1000 whatever the network.

    Args:
        transformer: A `DiTTransformer2DModel` of 1,000 classes.
        method: "ddim" or "ddpm"; the pipeline drops a learned variance.
        steps: S.
        compiled: Run the transformer through torch.compile, which the first call waits for.
    """

    def __init__(self, transformer: Any, method: str, steps: int, compiled: bool = False) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline

        scheduler = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[method](
            num_train_timesteps=1000, beta_start=1e-4, beta_end=2e-2, clip_sample=False
        )
        if compiled:
            transformer.compile()
        self._steps, self._kept = steps, KeptLatents()
        self._transformer = transformer
        self._pipeline = DiTPipeline(transformer, self._kept, scheduler)
        self._pipeline.set_progress_bar_config(disable=True)

    def __call__(self, class_ids: list[int], seed: int = 0) -> Tensor:
        """Sample `[B, C, H, W]` with CFG 4."""
        generator = torch.Generator(self._transformer.device).manual_seed(seed)
        torch.manual_seed(seed)  # what the scheduler's step draws from
        self._pipeline(class_ids, generator=generator, num_inference_steps=self._steps, output_type="pt")
        return self._kept.latents

    def noise(self, images: int, shape: tuple[int, int, int], seed: int = 0) -> list[Tensor]:
        """Draw again what `__call__` drew: the noise of each respaced step, the starting noise last."""
        device, dtype = self._transformer.device, self._transformer.dtype
        generator = torch.Generator(device).manual_seed(seed)
        first = torch.randn(images, *shape, generator=generator, device=device, dtype=dtype)
        torch.manual_seed(seed)
        steps = range(self._steps - 1, 0, -1)
        drawn = {i: torch.randn(2 * images, *shape, device=device, dtype=dtype)[:images] for i in steps}
        return [torch.zeros_like(first), *(drawn[i] for i in reversed(steps)), first]
