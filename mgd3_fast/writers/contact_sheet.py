"""The contact sheet: one row per class, so that a reader sees at a glance what was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MOST_CLASSES = 100
MOST_IMAGES = 10
LARGEST_THUMBNAIL_PX = 64
LABEL_PX = 132
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
    sheet = Image.new("RGB", (LABEL_PX + columns * pitch, GAP_PX + len(shown) * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for row, (name, paths) in enumerate(shown):
        top = GAP_PX + row * pitch
        label = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "~"
        draw.text((GAP_PX * 2, top + side / 2), label, fill="black", font=font, anchor="lm")
        for column, path in enumerate(paths):
            with Image.open(path) as image:
                thumbnail = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(thumbnail, (LABEL_PX + column * pitch, top))
    sheet.save(temporary, format="PNG")
    temporary.replace(target)
