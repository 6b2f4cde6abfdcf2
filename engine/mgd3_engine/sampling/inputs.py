"""What `GuidedSampler.sample` is asked for, checked once before anything is computed.

Shape letters: N images of a call, C channels, H W latent size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LatentShape = tuple[int, int, int]


@dataclass(frozen=True)
class SampleInputs:
    """The images of one call.

    Args:
        class_ids: int64 `[N]`, on the CPU.
        modes: float32 `[N, C, H, W]` or None.
        seeds: int64 `[N]` (a 64-bit pattern) or None.
        latent_shape: (C, H, W).
    """

    class_ids: Tensor
    modes: Tensor | None
    seeds: Tensor | None
    latent_shape: LatentShape

    @classmethod
    def checked(
        cls,
        class_ids: Tensor,
        modes: Tensor | None,
        seeds: Tensor | None,
        latent_shape: LatentShape | None,
        null_class: int | None,
    ) -> SampleInputs:
        """Take the arguments of `sample` as they come and refuse what would give wrong images.

        Args:
            class_ids: int64 `[N]`.
            modes: float32 `[N, C, H, W]` or None.
            seeds: int64 or uint64 `[N]`, or None where noise is given.
            latent_shape: (C, H, W); needed where `modes` is None.
            null_class: Id that no image may have; ids lie on one side of it.

        Returns:
            The images, seeds as int64 patterns.

        Raises:
            ValueError: A shape, dtype or value is wrong.
        """
        _check_class_ids(class_ids, null_class)
        shape = _latent_shape(modes, latent_shape)
        if modes is not None:
            _check_modes(modes, len(class_ids))
        if seeds is not None:
            _check_seeds(seeds, len(class_ids))
            seeds = seeds.view(torch.int64)
        return cls(class_ids.cpu(), modes, seeds, shape)


def _check_class_ids(class_ids: Tensor, null_class: int | None) -> None:
    if class_ids.dtype != torch.int64 or class_ids.ndim != 1:
        raise ValueError(f"class_ids must be int64 [N], got {class_ids.dtype} {list(class_ids.shape)}")
    # The null class follows the classes (DiT) or precedes them; without guidance it is an id like any other.
    if null_class is None:
        outside, allowed = class_ids < 0, "at least 0"
    elif null_class > 0:
        outside, allowed = (class_ids < 0) | (class_ids >= null_class), f"from 0 to {null_class - 1}"
    else:
        outside, allowed = class_ids <= null_class, f"above the null class {null_class}"
    if outside.any():
        index = int(outside.long().argmax())
        raise ValueError(f"class_ids must be {allowed}, got {int(class_ids[index])} for image {index}")


def _latent_shape(modes: Tensor | None, latent_shape: LatentShape | None) -> LatentShape:
    if modes is None:
        if latent_shape is None or len(latent_shape) != 3 or min(latent_shape) < 1:
            raise ValueError(f"latent_shape must be (C, H, W) where modes is None, got {latent_shape}")
        return latent_shape[0], latent_shape[1], latent_shape[2]
    if modes.ndim != 4 or 0 in modes.shape[1:]:
        raise ValueError(f"modes must be [N, C, H, W], got {list(modes.shape)}")
    own = (modes.shape[1], modes.shape[2], modes.shape[3])
    if latent_shape is not None and tuple(latent_shape) != own:
        raise ValueError(
            f"modes must be [N, C, H, W] with (C, H, W) = {latent_shape}, got {list(modes.shape)}"
        )
    return own


def _check_modes(modes: Tensor, images: int) -> None:
    if modes.dtype != torch.float32 or len(modes) != images:
        raise ValueError(
            f"modes must be float32 [{images}, C, H, W], one for each of class_ids,"
            f" got {modes.dtype} {list(modes.shape)}"
        )
    finite = torch.isfinite(modes).flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"modes must be finite, got NaN or infinity for image {int((~finite).long().argmax())}"
        )


def _check_seeds(seeds: Tensor, images: int) -> None:
    if seeds.dtype not in (torch.int64, torch.uint64) or tuple(seeds.shape) != (images,):
        raise ValueError(
            f"seeds must be int64 or uint64 [{images}], one for each of class_ids,"
            f" got {seeds.dtype} {list(seeds.shape)}"
        )
