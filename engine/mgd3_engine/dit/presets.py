"""Sizes of the published DiTs (Peebles & Xie 2023, Table 1)."""

from __future__ import annotations

from mgd3_engine.dit.config import DiTConfig

LATENT_DOWNSAMPLE = 8
"""Image pixels per latent pixel of the autoencoder that the published networks were trained on."""

_SIZES: dict[str, tuple[int, int, int]] = {  # depth, hidden size, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
_PATCH_SIZES = (2, 4, 8)

PRESET_NAMES: tuple[str, ...] = tuple(f"DiT-{size}/{patch}" for size in _SIZES for patch in _PATCH_SIZES)

HEADS_OF_HIDDEN_SIZE: dict[int, int] = {hidden: heads for _, hidden, heads in _SIZES.values()}
"""The head count that belongs to a published hidden size: weights alone do not tell it."""


def dit_config(name: str, *, image_size: int = 256, num_classes: int = 1000) -> DiTConfig:
    """Return the architecture of a published size (Peebles & Xie 2023, Table 1).

    Args:
        name: One of `PRESET_NAMES`, such as "DiT-XL/2".
        image_size: Side of the image in pixels; a multiple of 8 times the patch size (256 and 512 were
            published).
        num_classes: Labels without the null label.

    Returns:
        The configuration, for latents of `image_size / 8`.

    Raises:
        ValueError: `name` is not a published size, or `image_size` does not fit its patches.
    """
    if name not in PRESET_NAMES:
        raise ValueError(f"name must be one of {', '.join(PRESET_NAMES)}, got {name!r}")
    size, patch = name.removeprefix("DiT-").split("/")
    multiple = LATENT_DOWNSAMPLE * int(patch)
    if image_size < multiple or image_size % multiple:
        raise ValueError(f"image_size must be a multiple of {multiple} for {name}, got {image_size}")
    depth, hidden_size, num_heads = _SIZES[size]
    return DiTConfig(
        input_size=image_size // LATENT_DOWNSAMPLE,
        patch_size=int(patch),
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
        num_classes=num_classes,
    )
