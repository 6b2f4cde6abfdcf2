"""Bytes of an image file to an image, refusing what is damaged instead of filling it with grey."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

# Pillow refuses headers above this as decompression bombs; kept apart from Pillow's own setting, which
# another library may have switched off.
MAX_PIXELS = 178_956_970
_TOO_LARGE = f"more than the {MAX_PIXELS:,} pixels that are read: make the picture smaller"

# Pixels do not depend on EXIF, and ImageNet has a few dozen files with broken EXIF.
warnings.filterwarnings("ignore", message="Corrupt EXIF data", category=UserWarning)
# Of pictures from half of MAX_PIXELS on, which are read like all others.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImageError(ValueError):
    """An image that cannot be used; the message is the reason alone, without the file's name."""


def decode_image(content: bytes) -> Image.Image:
    """Decode a whole image file to 8 bits a channel; of an animation the first frame.

    16-bit grey is scaled by 1/257, where Pillow would clip it to white. EXIF orientation is ignored.

    Returns:
        RGB, or RGBA where a pixel is transparent; `Framing` makes RGB of both.

    Raises:
        BadImageError: Empty, unknown, truncated, corrupt or too large.
    """
    return decode_picture(content)[1]


def decode_picture(content: bytes) -> tuple[Image.Image, Image.Image]:
    """Decode as `decode_image` does, whose image is the second one.

    The first is the picture as its file holds it: in its own mode, with what the header says.
    """
    with _refusing_what_fails():
        picture = _loaded(content)
        return picture, _eight_bits(picture)


def _loaded(content: bytes) -> Image.Image:
    if not content:
        raise BadImageError("the file is empty")
    with _strict_truncation():
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(f"{image.width}x{image.height} pixels, {_TOO_LARGE}")
        if image.format == "JPEG" and _is_zero_filled(content):
            raise BadImageError("the JPEG's end was overwritten with zeros")
        image.load()
    return image


@contextmanager
def _refusing_what_fails() -> Iterator[None]:
    """Turn whatever an image file makes Pillow raise into a `BadImageError`."""
    try:
        yield
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        # Pillow looks at the header alone, as above: no memory is taken for the pixels.
        raise BadImageError(_TOO_LARGE) from None
    # Pillow's readers let whatever their parsers hit escape: SyntaxError, struct.error, IndexError, OSError.
    except Exception as error:
        raise BadImageError(f"{error}" or type(error).__name__) from None


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = _scaled_grey(image)
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            return image
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """16-bit grey as 8 bits, with an alpha channel where the file names a transparent grey."""
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise BadImageError(f"grey values {grey.min()}..{grey.max()} do not fit 16 bits")
    scaled = Image.fromarray(((grey * 2 + 257) // 514).astype(np.uint8))
    if "transparency" in image.info:
        scaled.putalpha(
            Image.fromarray(np.where(grey == image.info["transparency"], 0, 255).astype(np.uint8))
        )
    return scaled


def _is_zero_filled(jpeg: bytes) -> bool:
    """Whether a JPEG ends in zeros and has no end marker after its last scan: Pillow loads it, half grey."""
    return jpeg.endswith(bytes(16)) and jpeg.rfind(b"\xff\xd9") < jpeg.rfind(b"\xff\xda")


_strict_lock = threading.Lock()
_strict_users = 0
_outer_setting = False


@contextmanager
def _strict_truncation() -> Iterator[None]:
    """Hold Pillow's process-wide tolerance of truncated files off while any thread decodes here."""
    global _strict_users, _outer_setting
    with _strict_lock:
        if _strict_users == 0:
            _outer_setting = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _strict_users += 1
    try:
        yield
    finally:
        with _strict_lock:
            _strict_users -= 1
            if _strict_users == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _outer_setting
