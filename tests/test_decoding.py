"""Damaged files are told, pixel formats become RGB."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, photo
from PIL import Image, ImageFile

from mgd3_fast.datasets import BadImageError, decode_image


def png_with_broken_pixels() -> bytes:
    content = bytearray(encoded(photo(0), "PNG"))
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    return bytes(content)


def png_header_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def jpeg_with_zeroed_end() -> bytes:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise)
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


DAMAGED = {
    "empty": (b"", "the file is empty"),
    "text": (b"<html>404</html>", "not an image"),
    "truncated-jpeg": (encoded(photo(0, 200, 200))[:-40], "truncated"),
    "truncated-png": (encoded(photo(0), "PNG")[:-60], "truncated"),
    "truncated-bmp": (encoded(photo(0), "BMP")[:-3], "truncated"),
    "truncated-webp": (encoded(photo(0), "WEBP")[:-9], "decoder"),
    "zeroed-jpeg": (jpeg_with_zeroed_end(), "overwritten with zeros"),
    "broken-png": (png_with_broken_pixels(), "data stream"),
    "bomb": (png_header_claiming(60_000, 60_000), "178,956,970 pixels"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_told(kind: str) -> None:
    content, reason = DAMAGED[kind]
    with pytest.raises(BadImageError, match=reason):
        decode_image(content)


def test_bomb_is_refused_also_when_pillows_guard_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImageError, match="60000x60000 pixels, more than 178,956,970"):
        decode_image(DAMAGED["bomb"][0])


def test_truncation_is_refused_even_when_pillow_is_told_to_tolerate_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImageError, match="truncated"):
        decode_image(DAMAGED["truncated-jpeg"][0])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_jpeg_padded_after_its_end_marker_is_fine() -> None:
    content = encoded(photo(0))
    np.testing.assert_array_equal(decode_image(content + bytes(64)), decode_image(content))


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        pytest.param(Image.new("L", (2, 2), 77), "PNG", (77, 77, 77), id="grey"),
        pytest.param(Image.new("1", (2, 2), 1), "PNG", (255, 255, 255), id="bilevel"),
        pytest.param(Image.new("LA", (2, 2), (50, 9)), "PNG", (50, 50, 50), id="grey-alpha"),
        pytest.param(Image.new("RGBA", (2, 2), (9, 8, 7, 0)), "PNG", (9, 8, 7), id="rgba-alpha-dropped"),
        pytest.param(Image.new("RGB", (2, 2), (255, 0, 0)).convert("P"), "PNG", (255, 0, 0), id="palette"),
        pytest.param(Image.fromarray(np.full((2, 2), 51400, np.uint16)), "PNG", (200, 200, 200), id="16-bit"),
    ],
)
def test_modes_become_rgb(image: Image.Image, kind: str, expected: tuple[int, int, int]) -> None:
    decoded = decode_image(encoded(image, kind))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((1, 1)) == expected


def test_cmyk_jpeg_is_near_its_rgb() -> None:
    decoded = np.asarray(decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0))))).astype(int)
    assert np.abs(decoded - [255, 0, 0]).max() <= 3


def test_transparent_palette_keeps_its_colours_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=bytes([0, 128]))
    assert decode_image(buffer.getvalue()).getpixel((0, 0)) == (10, 20, 30)
    assert not recwarn.list


@pytest.mark.parametrize("value", [70_000, -1])
def test_32_bit_grey_beyond_16_bits_is_refused(value: int) -> None:
    wide = Image.fromarray(np.full((2, 2), value, np.int32))
    with pytest.raises(BadImageError, match=f"{value}.* do not fit 16 bits"):
        decode_image(encoded(wide, "TIFF"))


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(BadImageError, match="no defined range"):
        decode_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))
