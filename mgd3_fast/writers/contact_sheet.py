"""The contact sheet: one row per class, so that a reader sees at a glance what was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mgd3_engine.files.renaming import renamed
from mgd3_fast.errors import printable

MOST_CLASSES = 100
MOST_IMAGES = 10
LARGEST_THUMBNAIL_PX = 64
GAP_PX = 2
LONGEST_NAME = 20


def write_contact_sheet(target: Path, rows: Sequence[tuple[str, Sequence[Path]]], temporary: Path) -> None:
    """Write thumbnails of the first images of the first classes, with the class names at the left.

    Args:
        target: Final path of the PNG.
        rows: (class name, image paths) in label order; at most 100 rows of 10 images are shown.
        temporary: Path on the same file system for the unfinished file.
    """
    shown = [
        (name, [_thumbnail_of(path) for path in paths[:MOST_IMAGES]]) for name, paths in rows[:MOST_CLASSES]
    ]
    _laid_out(shown).save(temporary, format="PNG")
    temporary.replace(target)


def write_image_sheet(target: Path, rows: Sequence[tuple[str, NDArray[np.uint8]]]) -> None:
    """Write a sheet of images in memory, whole or not at all; equal images give equal bytes.

    Args:
        target: Path of the PNG; its folder is made.
        rows: (class name, uint8 `[n, 3, R, R]`); at most 100 rows of 10 images are shown.

    Raises:
        OSError: It cannot be written.
    """
    shown = [
        (name, [_thumbnail(Image.fromarray(one.transpose(1, 2, 0))) for one in images[:MOST_IMAGES]])
        for name, images in rows[:MOST_CLASSES]
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    with renamed(target) as unfinished:
        _laid_out(shown).save(unfinished, format="PNG")


def _thumbnail_of(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return _thumbnail(image)


def _thumbnail(image: Image.Image) -> Image.Image:
    side = min(LARGEST_THUMBNAIL_PX, image.width)
    return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def _laid_out(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Thumbnails in rows, the name of each row at the left."""
    side = rows[0][1][0].width
    pitch = side + GAP_PX
    columns = max(len(images) for _, images in rows)
    font = ImageFont.load_default()
    names = [printable(name) for name, _ in rows]
    labels = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "~" for name in names]
    left = 4 * GAP_PX + math.ceil(max(font.getlength(label) for label in labels))
    sheet = Image.new("RGB", (left + columns * pitch, GAP_PX + len(rows) * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, (_, images)) in enumerate(zip(labels, rows, strict=True)):
        top = GAP_PX + row * pitch
        draw.text((2 * GAP_PX, top + side / 2), label, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images):
            sheet.paste(image, (left + column * pitch, top))
    return sheet
