"""Pictures inside a page: thumbnails as data addresses, maps as SVG.

Shape letters: n real images, m synthetic images.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 112
_JPEG_QUALITY = 85
_MAP_PX = 260
_MARGIN_PX = 12


def data_url(image: Image.Image) -> str:
    """A `data:` address of an RGB picture: small ones exactly, larger ones as JPEG of 112 pixels at most."""
    encoded = io.BytesIO()
    scale = THUMBNAIL_PX / max(image.size)
    if scale >= 1:
        kind = "png"
        image.save(encoded, "PNG", optimize=True)
    else:
        kind = "jpeg"
        width, height = (max(1, round(side * scale)) for side in image.size)
        smaller = image.resize((width, height), Image.Resampling.LANCZOS)
        smaller.save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def place_map(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> dict[str, Any]:
    """Fit a map into a picture of its own proportions, the larger side 260 pixels.

    Args:
        real: `[n, 2]`.
        synthetic: `[m, 2]`.

    Returns:
        "width" and "height" of the picture, and for "real" and "synthetic" images [x, y], all in pixels.
    """
    together = np.concatenate([real, synthetic])
    low, extent = together.min(axis=0), np.ptp(together, axis=0)
    scale = (_MAP_PX - 2 * _MARGIN_PX) / (float(extent.max()) or 1.0)
    width, height = (round(float(side) * scale + 2 * _MARGIN_PX, 1) for side in extent)
    placed = {
        name: [[round(x, 1), round(y, 1)] for x, y in ((points - low) * scale + _MARGIN_PX).tolist()]
        for name, points in (("real", real), ("synthetic", synthetic))
    }
    return {"width": width, "height": height, **placed}
