"""Bytes of an image file to an RGB image, refusing what is damaged instead of filling it with grey."""

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

# Pixels do not depend on EXIF, and ImageNet has a few dozen files with broken EXIF.
warnings.filterwarnings("ignore", message="Corrupt EXIF data", category=UserWarning)


class BadImageError(ValueError):
    """An image that cannot be used; the message is the reason alone, without the file's name."""


def decode_image(content: bytes) -> Image.Image:
    """Decode a whole image file to RGB, 8 bits a channel; of an animation the first frame.

    Alpha is dropped and palettes are resolved as Pillow's `convert("RGB")` does (so did the authors);
    16-bit grey is scaled by 1/257, where `convert` would clip it to white. EXIF orientation is ignored.

    Raises:
        BadImageError: Empty, unknown, truncated, corrupt or too large.
    """
    with _refusing_what_fails():
        return to_rgb(_loaded(content))


def load_picture(content: bytes) -> Image.Image:
    """Read a whole image file as it is: in its own mode, with what its header says of it.

    Raises:
        BadImageError: Empty, unknown, truncated, corrupt or too large.
    """
    with _refusing_what_fails():
        return _loaded(content)


def _loaded(content: bytes) -> Image.Image:
    if not content:
        raise BadImageError("the file is empty")
    with _strict_truncation():
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
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
        raise BadImageError(f"more than {MAX_PIXELS:,} pixels") from None
    # Pillow's readers let whatever their parsers hit escape: SyntaxError, struct.error, IndexError, OSError.
    except Exception as error:
        raise BadImageError(f"{error}" or type(error).__name__) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """What `decode_image` makes of a picture.

    Raises:
        BadImageError: Its numbers have no range that 8 bits could stand for.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise BadImageError(f"grey values {grey.min()}..{grey.max()} do not fit 16 bits")
        return Image.fromarray(((grey * 2 + 257) // 514).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no defined range")
    if image.mode == "P" and "transparency" in image.info:
        # The same colours as a direct conversion, which warns about transparency.
        image = image.convert("RGBA")
    return image.convert("RGB")


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
