"""What one picture shows: its sides, its kind of pixels, and what tells it from other pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.datasets import Framing
from mgd3_fast.datasets.decoding import decode_picture

SIDE = 32
"""Pixels a side of the square that colours and likeness are judged on."""

THUMB = 12
"""Pixels a side of the thumbnail that near duplicates are found by."""

# Of the pixels of an almost uniform square, this share differs from the median colour by few levels.
_UNIFORM_SHARE, _UNIFORM_LEVELS = 0.98, 8
_STRIP_PIXELS = 2**20
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright


class Trait(IntFlag):
    """What is worth knowing of a picture."""

    TRANSPARENT = 1
    ONE_COLOUR = 2
    ALMOST_ONE_COLOUR = 4
    PALETTE = 8
    GREY = 16
    DEEP = 32
    CMYK = 64
    SEVERAL = 128
    TURNED = 256


class Look(NamedTuple):
    """What is kept of a picture.

    Args:
        width: Pixels.
        height: Pixels.
        traits: Those that it has.
        colour: Mean red, green and blue of its square, 0 to 255.
        digest: 16 bytes of the sha256 of its size and RGB pixels, so that files of any format compare.
        thumb: int8 [THUMB^2], grey levels of its square with mean 0, in 1/24 of their deviation.
    """

    width: int
    height: int
    traits: Trait
    colour: tuple[int, int, int]
    digest: bytes
    thumb: NDArray[np.int8]


def look_at(content: bytes, framing: Framing) -> Look:
    """Decode an image file, frame it as a run would, and keep what `Look` names.

    Raises:
        BadImageError: It is damaged, too large or too elongated.
    """
    picture, decoded = decode_picture(content)
    traits = _traits(picture, decoded)
    rgb = framing.rgb(decoded)
    square = framing.square(rgb, SIDE)
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}".encode())
    for strip in _strips(rgb):
        digest.update(strip.tobytes())
    pixels = np.asarray(square)
    red, green, blue = (round(level) for level in pixels.mean((0, 1)).tolist())
    return Look(
        *rgb.size, traits | _uniformity(pixels), (red, green, blue), digest.digest()[:16], _thumb(square)
    )


def _traits(picture: Image.Image, decoded: Image.Image) -> Trait:
    held = {
        Trait.TRANSPARENT: decoded.mode == "RGBA",
        Trait.PALETTE: picture.mode in ("P", "PA"),
        Trait.GREY: picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I"),
        Trait.DEEP: picture.mode.startswith("I"),
        Trait.CMYK: picture.mode == "CMYK",
        Trait.SEVERAL: bool(getattr(picture, "is_animated", False)),
        Trait.TURNED: _is_turned(picture),
    }
    return Trait(sum(trait for trait, holds in held.items() if holds))


def _is_turned(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # its parser raises errors of many kinds; pixels do not depend on EXIF
        return False


def _strips(picture: Image.Image) -> Iterator[Image.Image]:
    """A picture from top to bottom, so that no second copy of a large one is in memory."""
    rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        yield picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def _uniformity(square: NDArray[np.uint8]) -> Trait:
    """Whether a square uint8 [SIDE, SIDE, 3] is of one colour, or almost."""
    colours = square.reshape(-1, 3).astype(np.int64)
    distance = np.abs(colours - np.median(colours, axis=0)).max(1)
    if distance.max() <= 1:
        return Trait.ONE_COLOUR
    almost = (distance <= _UNIFORM_LEVELS).mean() >= _UNIFORM_SHARE
    return Trait.ALMOST_ONE_COLOUR if almost else Trait(0)


def _thumb(square: Image.Image) -> NDArray[np.int8]:
    grey = square.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=np.float64).ravel()
    levels = (levels - levels.mean()) / max(float(levels.std()), 1e-6)
    thumb: NDArray[np.int8] = np.clip(np.rint(24 * levels), -127, 127).astype(np.int8)
    return thumb
