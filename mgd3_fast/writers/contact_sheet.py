"""The contact sheet: one row per class, so that a reader sees at a glance what was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

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
    shown = [(name, paths[:MOST_IMAGES]) for name, paths in rows[:MOST_CLASSES]]
    with Image.open(shown[0][1][0]) as first:
        side = min(LARGEST_THUMBNAIL_PX, first.width)
    pitch = side + GAP_PX
    columns = max(len(paths) for _, paths in shown)
    font = ImageFont.load_default()
    names = [printable(name) for name, _ in shown]
    labels = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "~" for name in names]
    left = 4 * GAP_PX + math.ceil(max(font.getlength(label) for label in labels))
    sheet = Image.new("RGB", (left + columns * pitch, GAP_PX + len(shown) * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, (_, paths)) in enumerate(zip(labels, shown, strict=True)):
        top = GAP_PX + row * pitch
        draw.text((2 * GAP_PX, top + side / 2), label, fill="black", font=font, anchor="lm")
        for column, path in enumerate(paths):
            with Image.open(path) as image:
                thumbnail = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(thumbnail, (left + column * pitch, top))
    sheet.save(temporary, format="PNG")
    temporary.replace(target)
