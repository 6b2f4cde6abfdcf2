"""Mirroring images before they are encoded.

Shape letters: R pixels a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from mgd3_fast.datasets import BadImage, LoadedImage


def is_mirrored(class_name: str, image_name: str) -> bool:
    """The coin of one image under `--flip random`: the lowest bit of a sha256.

    It depends on these two names alone: not on seeds, order, workers or shards.

    Args:
        class_name: Wnid or folder name.
        image_name: Name of the image inside its class.

    Returns:
        True for half of all images.
    """
    text = f"{class_name}\n{image_name}".encode("utf-8", "surrogateescape")
    return bool(hashlib.sha256(text).digest()[-1] & 1)


def rows_per_image(flip: str) -> int:
    """Latents that a good image becomes: 2 for "both", otherwise 1."""
    return 2 if flip == "both" else 1


def flipped(
    images: Iterable[LoadedImage], flip: str, class_name: str, image_names: Iterable[str]
) -> Iterator[LoadedImage]:
    """Mirror some images of a class, or add mirrored copies.

    Args:
        images: Images of one class; bad ones pass as they are.
        flip: "none"; "random", a coin for each image; "both", each image followed by its mirror image.
        class_name: Name of the class.
        image_names: Names of the images, in the same order.

    Yields:
        uint8 [3, R, R] images, under the indices they came with.
    """
    for image, name in zip(images, image_names, strict=True):
        yield from flipped_image(image, flip, class_name, name)


def flipped_image(image: LoadedImage, flip: str, class_name: str, image_name: str) -> Iterator[LoadedImage]:
    """What one image becomes; see `flipped`."""
    if isinstance(image.pixels, BadImage) or flip == "none":
        yield image
        return
    mirrored = image._replace(pixels=np.ascontiguousarray(image.pixels[:, :, ::-1]))
    if flip == "both":
        yield image
        yield mirrored
    else:
        yield mirrored if is_mirrored(class_name, image_name) else image
