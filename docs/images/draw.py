"""Draw the pictures of the first pages: `python docs/images/draw.py RUN`, the demo at 10 a class."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mgd3_engine import NoiseSchedule
from mgd3_fast.datasets import open_dataset

HERE = Path(__file__).parent
SIDE, TINY, ACROSS, GAP = 32, 16, 30, 2
LEFT, TOP, ARROW = 22, 22, 60
STEPS = 50
GUIDED, FREE, INK, LINE = "#d95f02", "#3b6fb6", "#1b1b1b", "#8a8a8a"


def draw_demo(run: Path) -> Image.Image:
    """Draw two rows of real digits a class at the left, and what was distilled of all at the right."""
    classes = open_dataset("mnist5k").classes
    right = LEFT + ACROSS * TINY + ARROW
    size = (right + 10 * (SIDE + GAP), TOP + len(classes) * (SIDE + GAP))
    sheet = Image.new("L", size, 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    pen.text((LEFT, 3), "in: 4,000 real digits (60 of the 400 of each class)", 0, font)
    pen.text((right, 3), "out: 100 images, 10 a class", 0, font)
    for row, cls in enumerate(classes):
        y = TOP + row * (SIDE + GAP)
        pen.text((6, y + 8), cls.name, 0, font)
        for place in range(2 * ACROSS):
            tiny = cls.images.load(place).convert("L").resize((TINY, TINY), Image.Resampling.BOX)
            sheet.paste(tiny, (LEFT + place % ACROSS * TINY, y + place // ACROSS * TINY))
        for number in range(10):
            made = Image.open(run / cls.name / f"{number}.png").convert("L")
            sheet.paste(made, (right + number * (SIDE + GAP), y))
    middle, tip = (TOP + size[1]) // 2, right - 14
    pen.line([(tip - 30, middle), (tip, middle)], 0, 3)
    pen.polygon([(tip, middle - 7), (tip, middle + 7), (tip + 8, middle)], 0)
    return sheet.quantize(16)


def svg(width: int, height: int, *parts: str) -> str:
    """Wrap shapes into a picture with a light ground of its own, which dark pages leave readable."""
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#fbfaf7"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' font-family="sans-serif" font-size="14" fill="{INK}">\n{ground}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, anchor: str = "middle", fill: str = INK, size: int = 14) -> str:
    """Write a line of text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{words}</text>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """Draw a level or an upright arrow."""
    head = f"{to_x},{to_y}"
    dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
    for side in (-5, 5):
        head += f" {to_x - 9 * dx + side * dy},{to_y - 9 * dy + side * dx}"
    line = f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="{LINE}" stroke-width="2"/>'
    return f'{line}<polygon points="{head}" fill="{LINE}"/>'


def draw_trajectory() -> str:
    """Draw the 50 steps of a run with the paper's t_stop of 25, and with the demo's of 0."""
    timesteps = NoiseSchedule.linear(1000, 1e-4, 2e-2).respaced(STEPS).timesteps
    parts = [text(380, 26, "50 steps, run from left to right; all numbers count down", size=16)]
    for y, stop, name in (
        (64, 25, "t_stop 25 (DiT-XL/2, as in the paper)"),
        (164, 0, "t_stop 0 (demo model)"),
    ):
        parts.append(text(30, y - 8, name, "start"))
        for place, index in enumerate(range(STEPS - 1, -1, -1)):
            colour = GUIDED if index > stop else FREE
            parts.append(f'<rect x="{30 + 14 * place}" y="{y}" width="12" height="30" fill="{colour}"/>')
    for index in (49, 40, 30, 26, 25, 20, 10, 0):
        x = 36 + 14 * (STEPS - 1 - index)
        shift = {26: -6, 25: 6}.get(index, 0)
        parts += [text(x + shift, 114, str(index), size=12), text(x + shift, 214, str(index), size=12)]
        if index != 26:
            parts.append(text(x + shift, 240, str(timesteps[index]), size=12))
    parts += [
        text(740, 114, "step index", "start", LINE, 12),
        text(740, 214, "step index", "start", LINE, 12),
        text(740, 240, "timestep", "start", LINE, 12),
        f'<rect x="30" y="262" width="12" height="12" fill="{GUIDED}"/>',
        text(48, 273, "guided: pulled towards the mode", "start"),
        f'<rect x="300" y="262" width="12" height="12" fill="{FREE}"/>',
        text(318, 273, "not guided: the generator alone", "start"),
        text(36, 300, "pure noise", "start", LINE),
        text(728, 300, "clean latent", "end", LINE),
        arrow(120, 296, 630, 296),
    ]
    return svg(820, 316, *parts)


def box(x: float, y: float, width: float, title: str, under: str) -> str:
    """Draw a box with a title, and a line under it."""
    middle = x + width / 2
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="56" rx="6" fill="#fff" stroke="{LINE}"/>'
    return frame + text(middle, y + 24, title) + text(middle, y + 43, under, fill="#555", size=12)


def draw_method() -> str:
    """Draw the way from the images of a class to the distilled ones."""
    dots = [(-52, -20), (-44, -6), (-58, 2), (-36, -16), (6, 22), (18, 14), (14, 30), (26, 24), (40, -24)]
    dots += [(50, -14), (54, -28), (36, -12)]
    stars = [(-47, -10), (16, 22), (45, -20)]
    x, y = 415, 118
    cloud = [f'<circle cx="{x + a}" cy="{y + b}" r="3.5" fill="{FREE}"/>' for a, b in dots]
    modes = [text(x + a, y + b + 7, "&#9733;", fill=GUIDED, size=20) for a, b in stars]
    return svg(
        820,
        330,
        text(20, 28, "1. Encode and discover, class by class", "start", size=16),
        box(20, 90, 130, "real images", "all of one class"),
        arrow(152, 118, 176, 118),
        box(180, 90, 130, "encoder", "of the autoencoder"),
        arrow(312, 118, 336, 118),
        f'<rect x="340" y="66" width="150" height="104" rx="6" fill="#fff" stroke="{LINE}"/>',
        *cloud,
        *modes,
        text(415, 58, "latents and their modes", size=13),
        text(510, 106, "Each dot is the latent of a real image.", "start", "#555", 13),
        text(510, 126, "Each star is a mode, found by K-means:", "start", "#555", 13),
        text(510, 146, "one for each image that is wanted.", "start", "#555", 13),
        text(20, 212, "2. Sample, once for each mode", "start", size=16),
        box(20, 244, 130, "noise", "one seed an image"),
        arrow(152, 272, 196, 272),
        box(200, 244, 270, "diffusion model, 50 steps", "told the class; pulled to the mode"),
        arrow(415, 172, 415, 240),
        arrow(472, 272, 516, 272),
        box(520, 244, 110, "decoder", "latent to pixels"),
        arrow(632, 272, 666, 272),
        box(670, 244, 130, "one image", "of the distilled set"),
    )


if __name__ == "__main__":
    draw_demo(Path(sys.argv[1])).save(HERE / "demo.png", optimize=True)
    (HERE / "trajectory.svg").write_text(draw_trajectory(), encoding="utf-8")
    (HERE / "method.svg").write_text(draw_method(), encoding="utf-8")
