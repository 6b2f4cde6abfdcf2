"""The authors' centre crop, which came to them from ADM (Dhariwal & Nichol 2021)."""

from __future__ import annotations

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
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{image.width}x{image.height} pixels are too elongated to crop at {size}")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
