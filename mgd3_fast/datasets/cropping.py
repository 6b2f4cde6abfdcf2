"""The authors' centre crop, which they have from ADM (Dhariwal & Nichol 2021), and its like with padding."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from mgd3_fast.datasets.decoding import MAX_PIXELS, BadImageError


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Cut the centred square of an image at a given size.

    Halve both sides with a box filter while the shorter one is at least 2 * size, resize bicubically so
    that the shorter side is `size` (the longer one rounded), and cut the centre, the odd pixel going to
    the right and bottom. Images smaller than `size` are enlarged.

    Args:
        image: Any size and mode, which stays; orientation in EXIF is ignored, as the authors do.
        size: Pixels a side, at least 1.

    Raises:
        ValueError: `size` is below 1.
        BadImageError: So elongated that the resized image would have more than 178,956,970 pixels.
    """
    image = _scaled(image, size, min)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pad_to_square(image: Image.Image, size: int, background: tuple[int, int, int]) -> Image.Image:
    """Put a whole image into the middle of a square of a given size.

    Resized as by `center_crop`, but so that the longer side is `size`, and no side below 1; an odd pixel of
    the background goes to the right or the bottom.

    Args:
        image: RGB, of any size.
        size: Pixels a side, at least 1.
        background: Fills what the image leaves empty.

    Raises:
        ValueError: `size` is below 1.
    """
    image = _scaled(image, size, max)
    square = Image.new("RGB", (size, size), background)
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def _scaled(image: Image.Image, size: int, side: Callable[[tuple[int, int]], int]) -> Image.Image:
    """Halve while a side is at least 2 * size, then bring it to `size`."""
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    while side(image.size) >= 2 * size:
        width, height = (max(1, length // 2) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    scale = size / side(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{image.width}x{image.height} pixels are too elongated to crop at {size}")
    return image.resize((width, height), Image.Resampling.BICUBIC)
