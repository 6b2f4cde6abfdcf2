"""Pictures inside a page: thumbnails as data addresses, maps as SVG.

Shape letters: n real images, m synthetic images.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 112
_JPEG_QUALITY = 85
_MAP_PX = 260
_MARGIN_PX = 12


def data_url(image: Image.Image) -> str:
    """Encode a picture for a page: small ones exactly, larger ones as JPEG of at most 112 pixels a side.

    Args:
        image: RGB.

    Returns:
        A `data:` address.
    """
    encoded = io.BytesIO()
    if max(image.size) <= THUMBNAIL_PX:
        kind = "png"
        image.save(encoded, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.copy().resize(_fitted(image), Image.Resampling.LANCZOS).save(
            encoded, "JPEG", quality=_JPEG_QUALITY
        )
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


@dataclass(frozen=True)
class Dot:
    """A point of a map, in pixels of its picture, and its number."""

    x: float
    y: float
    number: int


@dataclass(frozen=True)
class MapPicture:
    """A map as the page draws it.

    Args:
        width: Pixels.
        height: Pixels.
        real: The real images.
        synthetic: The synthetic ones, numbered as their files.
    """

    width: float
    height: float
    real: tuple[Dot, ...]
    synthetic: tuple[Dot, ...]


def place_map(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> MapPicture:
    """Fit a map into a picture of its own proportions.

    Args:
        real: `[n, 2]`.
        synthetic: `[m, 2]`.

    Returns:
        Both in pixels, the larger side 260.
    """
    together = np.concatenate([real, synthetic])
    low, extent = together.min(axis=0), np.ptp(together, axis=0)
    scale = (_MAP_PX - 2 * _MARGIN_PX) / (float(extent.max()) or 1.0)
    width, height = (float(side) * scale + 2 * _MARGIN_PX for side in extent)
    return MapPicture(
        round(width, 1),
        round(height, 1),
        _dots((real - low) * scale + _MARGIN_PX),
        _dots((synthetic - low) * scale + _MARGIN_PX),
    )


def _dots(points: NDArray[np.float64]) -> tuple[Dot, ...]:
    return tuple(Dot(round(x, 1), round(y, 1), number) for number, (x, y) in enumerate(points.tolist()))


def _fitted(image: Image.Image) -> tuple[int, int]:
    scale = THUMBNAIL_PX / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return width, height
