"""The authors' centre crop: sizes worked out by hand, pixels against a float reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.datasets import BadImageError, center_crop


def gradient(width: int, height: int) -> Image.Image:
    """Red counts columns, green counts rows: a crop's corner tells where it was cut."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8))


def halve(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Mean of 2x2 blocks, rounded half up after each of the two passes, as an 8-bit box filter does."""
    columns = (pixels[:, 0::2] + pixels[:, 1::2] + 1) // 2
    return (columns[0::2] + columns[1::2] + 1) // 2


@pytest.mark.parametrize(
    ("size_in", "size", "corner"),
    [
        pytest.param((32, 32), 32, (0, 0), id="same-size"),
        pytest.param((50, 32), 32, (9, 0), id="wide"),
        pytest.param((32, 51), 32, (0, 9), id="tall-odd-pixel-at-the-bottom"),
        pytest.param((33, 32), 32, (0, 0), id="one-column-over"),
    ],
)
def test_cut_without_resize(size_in: tuple[int, int], size: int, corner: tuple[int, int]) -> None:
    image = gradient(*size_in)
    cropped = np.asarray(center_crop(image, size))
    left, top = corner
    np.testing.assert_array_equal(cropped, np.asarray(image)[top : top + size, left : left + size])


@pytest.mark.parametrize(
    ("size_in", "halvings"),
    [
        pytest.param((64, 64), 1, id="just-2x"),
        pytest.param((128, 200), 2, id="4x"),
        pytest.param((640, 256), 3, id="8x-wide"),
    ],
)
def test_whole_halvings_are_box_means(size_in: tuple[int, int], halvings: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size_in[1], size_in[0], 3), dtype=np.uint8)
    reference = noise.astype(np.int64)
    for _ in range(halvings):
        reference = halve(reference)
    top, left = (reference.shape[0] - 32) // 2, (reference.shape[1] - 32) // 2
    cropped = np.asarray(center_crop(Image.fromarray(noise), 32))
    np.testing.assert_array_equal(cropped, reference[top : top + 32, left : left + 32])


def bicubic_weights(length_in: int, length_out: int) -> NDArray[np.float64]:
    """Rows of Keys' cubic kernel (a = -0.5), widened when shrinking, normalised."""
    scale = length_in / length_out
    widening = max(scale, 1.0)
    centres = (np.arange(length_out) + 0.5) * scale
    distance = np.abs((np.arange(length_in)[None] + 0.5 - centres[:, None]) / widening)
    inner = 1.5 * distance**3 - 2.5 * distance**2 + 1
    outer = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, inner, np.where(distance < 2, outer, 0.0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("size_in", "resized"),
    [
        pytest.param((500, 375), (341, 256), id="imagenet-landscape"),
        pytest.param((333, 500), (256, 384), id="imagenet-portrait"),
        pytest.param((100, 80), (320, 256), id="enlarged"),
        pytest.param((511, 511), (256, 256), id="just-below-2x"),
    ],
)
def test_resize_is_bicubic_to_the_shorter_side(size_in: tuple[int, int], resized: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(60, 200, (size_in[1], size_in[0], 3)).astype(np.float64)
    image = Image.fromarray(pixels.astype(np.uint8))
    across, down = bicubic_weights(size_in[0], resized[0]), bicubic_weights(size_in[1], resized[1])
    reference = np.einsum("yh,xw,hwc->yxc", down, across, pixels, optimize=True)
    left, top = (resized[0] - 256) // 2, (resized[1] - 256) // 2
    reference = reference[top : top + 256, left : left + 256]
    cropped = np.asarray(center_crop(image, 256)).astype(np.float64)
    # Eight bits after each of the two passes: measured up to 1.1 levels.
    assert np.abs(cropped - reference).max() <= 1.25


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_any_size_gives_a_square(width: int, height: int, size: int) -> None:
    assert center_crop(Image.new("RGB", (width, height)), size).size == (size, size)


def test_exif_orientation_is_ignored() -> None:
    image = gradient(40, 32)
    exif = image.getexif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    np.testing.assert_array_equal(center_crop(image, 32), center_crop(gradient(40, 32), 32))


def test_refuses_elongated_image_before_resizing_it() -> None:
    with pytest.raises(BadImageError, match="too elongated"):
        center_crop(Image.new("RGB", (100_000, 2)), 256)


def test_refuses_size_below_one() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        center_crop(gradient(4, 4), 0)
