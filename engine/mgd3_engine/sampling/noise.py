"""Where the noise of a batch comes from: the images' own counters, or a function that the caller gave.

Shape letters: B rows of state, C channels, H W latent size, S respaced steps.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mgd3_engine.sampling.batches import BatchBuffers
from mgd3_kernels import philox_normal


class NoiseSource(Protocol):
    """Noise of the caller's own, in place of the counter-based one: any callable that takes two numbers."""

    def __call__(self, step: int, image_index: int, /) -> Tensor:
        """Draw the noise of one image at one step.

        Args:
            step: S for the noise that an image starts from, else the step i > 0 that adds it.
            image_index: Place of the image in the call of `sample`.

        Returns:
            float32 `[C, H, W]`, standard normal.
        """
        ...


def draw_noise(step: int, buffers: BatchBuffers, source: NoiseSource | None) -> Tensor:
    """Draw the noise of a step for every row; rows past the images repeat the last image's.

    Args:
        step: S for the starting noise, else the respaced index i.
        buffers: The batch; its seeds count where there is no source.
        source: The caller's noise.

    Returns:
        float32 `[B, C, H, W]` on the device of the batch.

    Raises:
        ValueError: The source returned another shape.
    """
    B, *shape = buffers.x.shape
    if source is None:
        assert buffers.seeds is not None
        return philox_normal(buffers.seeds, step, shape)
    drawn = []
    for index in buffers.image_index.tolist():
        drawn.append(source(step, index))
        if list(drawn[-1].shape) != shape:
            raise ValueError(f"noise must return {shape}, got {list(drawn[-1].shape)} at step {step}")
    drawn += drawn[-1:] * (B - len(drawn))
    return torch.stack(drawn).to(device=buffers.x.device, dtype=torch.float32)
