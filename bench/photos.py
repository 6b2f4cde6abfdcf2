"""Made-up photographs of ImageNet's usual size, for what decodes and encodes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def photo(seed: int) -> bytes:
    """A JPEG of ImageNet's usual size: smooth colours, edges and grain."""
    generator = np.random.default_rng(seed)
    pixels = np.full((375, 500, 3), 120.0)
    for cells, strength in ((6, 50.0), (25, 25.0), (100, 12.0)):
        coarse = generator.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        pixels += strength * (np.asarray(smooth, dtype=np.float64) / 127.5 - 1)
    pixels += generator.normal(0, 11, (375, 500, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
