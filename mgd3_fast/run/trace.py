"""What the network believes at every step: the predicted clean image of chosen images, for several t_stop.

Shape letters: N images, C channels, h w latent size, H W pixels, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mgd3_engine import ModeGuidance, StepState
from mgd3_engine.files.renaming import renamed
from mgd3_fast.datasets.selector import matched
from mgd3_fast.devices import autoencoder_dtype
from mgd3_fast.errors import UserError, printable
from mgd3_fast.modes import ModeSet
from mgd3_fast.writers import MODES

if TYPE_CHECKING:
    from mgd3_fast.config import DistillConfig
    from mgd3_fast.generators import SamplingDefaults
    from mgd3_fast.run.generated import GeneratedImages
    from mgd3_fast.writers import Layout

TRACE = "trace.png"
MOST_COLUMNS = 11
LARGEST_SIDE_PX = 128
SMALLEST_SIDE_PX = 48
GAP_PX = 3
LINE_PX = 14
STOP_COLOUR = "#D55E00"


@dataclass
class CleanLatents:
    """A guidance term that guides nothing and keeps x0 `[N, C, h, w]` as predicted at every step."""

    by_step: dict[int, Tensor] = field(default_factory=dict)
    needs_grad: bool = False
    needs_group: bool = False

    def __call__(self, state: StepState) -> Tensor:
        """Keep the step's x0; the delta is zero."""
        self.by_step[state.step] = state.x0.detach().cpu()
        return torch.zeros_like(state.x_t)


def requested_trace(
    config: DistillConfig, layout: Layout, sampling: SamplingDefaults
) -> tuple[list[int], list[int]]:
    """Find out which images of the run are to be traced, and for which t_stop (0..S, S is no guidance).

    Raises:
        UserError: A class is not in the run or has fewer images, or a t_stop is out of range.
    """
    names, ipc, images = layout.class_names, layout.ipc, []
    wanted = config.traced()
    known = matched((name for name, _ in wanted), names)
    for name, mode in wanted:
        if name not in known:
            raise UserError(f"trace must name classes of the run, such as {names[0]}, got {name!r}")
        if mode >= ipc:
            raise UserError(f"trace must name images 0 to {ipc - 1} of a class, got {name}/{mode}")
        images.append(names.index(known[name]) * ipc + mode)
    return images, config.stops_traced(sampling.steps, sampling.t_stop)


def write_trace(run: GeneratedImages) -> Path:
    """Sample the images for every t_stop and draw what was predicted on the way (MGD3, figure 11).

    With the run's own t_stop the last picture of a row is the image of the run, up to the rounding of another
    batch size and backend.

    Args:
        run: A complete run.

    Returns:
        `OUT/trace.png`: a row per image and t_stop, a column per step; a line stands where guidance stops.
    """
    S = run.sampling.steps
    images, stops = requested_trace(run.config, run.layout, run.sampling)
    modes = ModeSet.load(run.folder.out / MODES)
    columns = min(MOST_COLUMNS, S)
    steps = [round((S - 1) * (1 - k / max(1, columns - 1))) for k in range(columns)]
    rows: list[Tensor] = []  # per t_stop: uint8 [steps, N, H, W, 3]
    with run.progress.stage("trace", total=len(stops), unit="t_stop") as bar:
        for stop in stops:
            by_step = _clean_latents(run, modes, images, stop)
            rows.append(_decoded(run, [by_step[step] for step in steps]))
            bar.advance()
    places = [run.layout.place(image) for image in images]
    titles = [f"class {printable(run.layout.class_names[c])}, image {mode}" for c, mode in places]
    sheet = _draw(torch.stack(rows), titles, stops, steps)
    with renamed(run.folder.out / TRACE) as unfinished:
        sheet.save(unfinished, format="PNG")
    return run.folder.out / TRACE


def _clean_latents(
    run: GeneratedImages, modes: ModeSet, images: Sequence[int], stop: int
) -> dict[int, Tensor]:
    sampling, guidance, term = run.sampling, None, CleanLatents()
    if stop < sampling.steps - 1 and sampling.mode_scale > 0:
        form = run.config.guidance_form
        guidance = ModeGuidance(scale=sampling.mode_scale, t_stop=stop, form=form).resolve(
            sampling.sampler, sampling.steps
        )
    sampler = run.sampler_like(guidance=guidance, batch_size=len(images), backend="eager", terms=(term,))
    sampler.sample(*run.inputs(images, modes))
    return term.by_step


def _decoded(run: GeneratedImages, by_step: Sequence[Tensor]) -> Tensor:
    """Pixels uint8 `[steps, N, H, W, 3]` of latents `[N, C, h, w]` of each step."""
    device = run.sources.device
    autoencoder = run.sources.generator.autoencoder.to(device, autoencoder_dtype(run.sources.precision))
    parts = [autoencoder.decode(latents.to(device)).cpu() for latents in by_step]
    return torch.stack(parts).permute(0, 1, 3, 4, 2)


def _draw(pixels: Tensor, titles: Sequence[str], stops: Sequence[int], steps: Sequence[int]) -> Image.Image:
    """Lay out `[t_stops, steps, N, H, W, 3]`, one block of rows per image."""
    side = min(LARGEST_SIDE_PX, max(SMALLEST_SIDE_PX, pixels.shape[3]))
    font = ImageFont.load_default()
    left = round(max(font.getlength(f"t_stop {stop}") for stop in stops)) + 4 * GAP_PX
    block = 2 * LINE_PX + len(stops) * (side + GAP_PX) + 2 * GAP_PX
    sheet = Image.new("RGB", (left + len(steps) * (side + GAP_PX) + GAP_PX, len(titles) * block), "white")
    draw = ImageDraw.Draw(sheet)
    for index, title in enumerate(titles):
        top = index * block
        draw.text((2 * GAP_PX, top + GAP_PX), title, fill="black", font=font)
        for row, stop in enumerate(stops):
            y = top + 2 * LINE_PX + row * (side + GAP_PX)
            draw.text((2 * GAP_PX, y + side / 2), f"t_stop {stop}", fill="black", font=font, anchor="lm")
            for column, step in enumerate(steps):
                x = left + column * (side + GAP_PX)
                if row == 0:
                    label = f"step {step}" if column == 0 else f"{step}"
                    draw.text((x + side / 2, y - 2), label, fill="black", font=font, anchor="mb")
                shown = Image.fromarray(pixels[row, column, index].numpy())
                sheet.paste(shown.resize((side, side), Image.Resampling.NEAREST), (x, y))
                if step <= stop and (column == 0 or steps[column - 1] > stop):
                    draw.line([(x - 2, y), (x - 2, y + side)], fill=STOP_COLOUR, width=3)
    return sheet
