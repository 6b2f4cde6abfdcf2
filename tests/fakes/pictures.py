"""Pictures that several tests write and read."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
