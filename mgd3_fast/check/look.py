"""What one picture shows: its sides, its kind of pixels, and what tells it from other pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from enum import IntFlag
from io import BytesIO
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.datasets import BadImageError, Framing
from mgd3_fast.datasets.decoding import decode_picture

SIDE = 32
"""Pixels a side of the square that colours and likeness are judged on."""

THUMB = 12
"""Pixels a side of the thumbnail that near duplicates are found by."""

# Of the pixels of an almost uniform square, this share differs from the median colour by few levels.
_UNIFORM_SHARE, _UNIFORM_LEVELS = 0.98, 8
_STRIP_PIXELS = 2**20
# Decoded, a picture takes up to 10 bytes a pixel: several of 100 million are not held at a time.
_LARGE_PIXELS = 2**24
_one_large_at_a_time = Lock()
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
    with _one_large_at_a_time if pixels_of(content) > _LARGE_PIXELS else nullcontext():
        picture, decoded = decode_picture(content)
        traits, rgb = _traits(picture, decoded), framing.rgb(decoded)
        square, digest = framing.square(rgb, SIDE), _digest(rgb)
    pixels = np.asarray(square)
    red, green, blue = (round(level) for level in pixels.mean((0, 1)).tolist())
    return Look(*rgb.size, traits | _uniformity(pixels), (red, green, blue), digest, _thumb(square))


class Seen(NamedTuple):
    """A picture by class and name, and what it shows or why it cannot be read."""

    class_name: str
    name: str
    look: Look | str


def see(class_name: str, name: str, read: Callable[[], bytes], framing: Framing) -> Seen:
    """Look at the picture whose file `read` gives."""
    try:
        return Seen(class_name, name, look_at(read(), framing))
    except BadImageError as error:
        return Seen(class_name, name, str(error))
    except OSError as error:
        return Seen(class_name, name, error.strerror or str(error))


def pixels_of(content: bytes) -> int:
    """Pixels of an image file by its header; 0 where it has none that can be read."""
    with suppress(Exception), Image.open(BytesIO(content)) as image:
        return int(image.width * image.height)
    return 0


def _digest(rgb: Image.Image) -> bytes:
    """Of size and pixels, from top to bottom, so that no second copy of a large picture is in memory."""
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}".encode())
    rows = max(1, _STRIP_PIXELS // rgb.width)
    for top in range(0, rgb.height, rows):
        digest.update(rgb.crop((0, top, rgb.width, min(top + rows, rgb.height))).tobytes())
    return digest.digest()[:16]


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
