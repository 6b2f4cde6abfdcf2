"""What a caller may watch of a run."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class StepCallback(Protocol):
    """Sees the latents of a batch after each step: any callable that takes these three by their places."""

    def __call__(self, step: int, image_index: Tensor, latents: Tensor, /) -> object:
        """Look at one step of one batch; what is returned is not used.

        Args:
            step: Respaced index i, S-1 down to 0.
            image_index: int64 `[n]` on the CPU: place of each image in the call of `sample`.
            latents: x_{i-1}, float32 `[n, C, H, W]`: the live state, to be copied if it is to be kept.
        """
        ...
