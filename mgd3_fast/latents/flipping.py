"""Mirroring images before they are encoded.

Shape letters: R pixels a side.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def is_mirrored(class_name: str, image_name: str) -> bool:
    """The coin of one image under `--flip random`: the lowest bit of a sha256.

    It depends on these two names alone: not on seeds, order, workers or shards.

    Args:
        class_name: Wnid or folder name.
        image_name: Name of the image inside its class.
    """
    text = f"{class_name}\n{image_name}".encode("utf-8", "surrogateescape")
    return bool(hashlib.sha256(text).digest()[-1] & 1)


def rows_per_image(flip: str) -> int:
    """Latents that a good image becomes: 2 for "both", otherwise 1."""
    return 2 if flip == "both" else 1


def flipped(
    pixels: NDArray[np.uint8], flip: str, class_name: str, image_name: str
) -> list[NDArray[np.uint8]]:
    """Mirror an image, uint8 [3, R, R], or add its mirror image.

    Args:
        pixels: The image.
        flip: "none"; "random", a coin for each image; "both", the image followed by its mirror image.
        class_name: Name of its class.
        image_name: Its name.
    """
    if flip == "none" or (flip == "random" and not is_mirrored(class_name, image_name)):
        return [pixels]
    mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
    return [pixels, mirrored] if flip == "both" else [mirrored]
