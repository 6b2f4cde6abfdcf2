"""What a network is to the sampler.

Shape letters: R rows of a batch (2B with classifier-free guidance, else B), C channels, H W latent size, P
patch size, M numbers that a row's timestep and class set in the network, T tokens, d hidden size.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


class Denoiser(Protocol):
    """A network, as the sampler sees it: any callable that takes three tensors by their places.

    A row of the output must depend on that row of the inputs alone.
    """

    def __call__(self, x: Tensor, timestep: Tensor, class_ids: Tensor, /) -> Tensor:
        """Predict the noise, or v.

        Args:
            x: `[R, C, H, W]` of the sampler's dtype: noisy latents.
            timestep: int64 `[R]`, 0..T-1 of the trained schedule.
            class_ids: int64 `[R]`; the null class in the second half with classifier-free guidance.

        Returns:
            `[R, C, H, W]`, or `[R, 2C, H, W]`: the prediction, then the learned variance from -1 to 1.
        """
        ...


@runtime_checkable
class HoistedDenoiser(Denoiser, Protocol):
    """A denoiser in two parts: what timestep and class set is computed once a run, not once a step."""

    def modulation(self, timestep: Tensor, class_ids: Tensor) -> Tensor:
        """Compute `[R, M]` from timesteps int64 `[R]` and class_ids int64 `[R]`."""
        ...

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Compute `[R, C or 2C, H, W]` from x `[R, C, H, W]` and a modulation `[R, M]`."""
        ...


@runtime_checkable
class PatchDenoiser(HoistedDenoiser, Protocol):
    """A hoisted denoiser whose output lies in memory patch after patch, and need not be put in its places."""

    def denoise_patches(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Compute `denoise`'s output as a view `[R, C or 2C, H/P, P, W/P, P]` of what the network wrote."""
        ...


@runtime_checkable
class CachingDenoiser(PatchDenoiser, Protocol):
    """A patch denoiser whose blocks can be left out: what they add to the tokens may come from elsewhere."""

    def denoise_keeping(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `denoise_patches`'s output, and what the blocks have added, `[R, T, d]`."""
        ...

    def denoise_adding(self, x: Tensor, modulation: Tensor, added: Tensor) -> Tensor:
        """Compute `denoise_patches`'s output without the blocks, given what they would add."""
        ...
