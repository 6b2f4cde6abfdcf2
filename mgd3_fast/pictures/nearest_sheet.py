"""The sheet of a class: a row for each mode with the real images nearest to it.

Shape letters: K modes, M images a mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mgd3_engine.files.renaming import renamed
from mgd3_fast.pictures.members import ModeMembers

THUMBNAIL_PX = 96
MOST_MODES = 100
_GAP_PX = 4
_TEXT_PX = 14
_LEFT_PX = 132
_BAR_PX = 112
_BAR_COLOUR = "#0072B2"


def draw_nearest_sheet(path: Path, members: ModeMembers, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Write the sheet as PNG; equal arguments give equal bytes.

    `rows` holds M square images for each of the first modes, the nearest first; at most 100 modes are shown.
    """
    shown = rows[:MOST_MODES]
    font = ImageFont.load_default(_TEXT_PX)
    pitch = THUMBNAIL_PX + _GAP_PX
    height = pitch + _TEXT_PX + _GAP_PX  # of a mode: pictures, and their distances below
    head = 3 * (_TEXT_PX + _GAP_PX)
    more = f" (the first {len(shown)} of {len(rows)})" if len(rows) > len(shown) else ""
    lines = [
        members.title + more,
        "Real images nearest to each mode, and their distance from it (RMS, units of latents).",
    ]
    width = _LEFT_PX + members.nearest.shape[1] * pitch
    width = max(width, *(round(font.getlength(line)) + 3 * _GAP_PX for line in lines))
    sheet = Image.new("RGB", (width, head + len(shown) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((2 * _GAP_PX, _GAP_PX + number * (_TEXT_PX + _GAP_PX)), line, fill="black", font=font)
    heaviest = float(members.weights.max())
    for mode, images in enumerate(shown):
        top = head + mode * height
        weight = float(members.weights[mode])
        _draw_mode(draw, top, f"mode {mode}", weight, heaviest, font)
        for column, image in enumerate(images):
            left = _LEFT_PX + column * pitch
            sheet.paste(_thumbnail(image), (left, top))
            distance = f"{float(members.distances[mode, column]):#.3g}"
            middle = left + THUMBNAIL_PX / 2
            draw.text((middle, top + THUMBNAIL_PX + 1), distance, fill="#444444", font=font, anchor="ma")
    with renamed(path) as unfinished:
        sheet.save(unfinished, format="PNG")


def _draw_mode(
    draw: ImageDraw.ImageDraw,
    top: int,
    name: str,
    weight: float,
    heaviest: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Name and weight of a mode, the weight also as a bar whose longest is that of the heaviest mode."""
    left, middle = 2 * _GAP_PX, top + THUMBNAIL_PX // 2
    draw.text((left, middle - _TEXT_PX - 4), name, fill="black", font=font)
    draw.text((left, middle + 2), f"{weight:.1%} of the class", fill="black", font=font)
    length = round(_BAR_PX * weight / heaviest)
    bar_top = middle + _TEXT_PX + 10
    draw.rectangle((left, bar_top, left + _BAR_PX, bar_top + 6), fill="#E5E5E5")
    if length:
        draw.rectangle((left, bar_top, left + length, bar_top + 6), fill=_BAR_COLOUR)


def _thumbnail(image: Image.Image) -> Image.Image:
    """Small pictures are enlarged without smoothing, so that their pixels are seen."""
    enlarged = image.width < THUMBNAIL_PX
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.BICUBIC
    return image.convert("RGB").resize((THUMBNAIL_PX, THUMBNAIL_PX), how)
