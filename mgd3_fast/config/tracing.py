"""Which images of a run are traced, and for which values of t_stop."""

from __future__ import annotations

import re
from typing import Any

from mgd3_fast.config.fields import option
from mgd3_fast.errors import UserError


def trace_option() -> Any:
    """Declare the images whose denoising is drawn; see `read_images`."""
    return option(
        "also draw the denoising of these images, CLASS/NUMBER,.., into OUT/trace.png",
        default=None,
        metavar="IMAGES",
        check=lambda _, images: read_images(images),
    )


def trace_stops_option() -> Any:
    """Declare the values of t_stop that it is drawn for; see `read_stops`."""
    return option(
        "values of t_stop to draw it for, separated by commas (default: 0, the run's own and none)",
        default=None,
        metavar="N,..",
    )


def read_images(trace: str) -> list[tuple[str, int]]:
    """Read CLASS/NUMBER,... with class names that may hold commas."""
    if not re.fullmatch(r"[^/]+/\d+\s*(,[^/]+/\d+\s*)*", trace):
        raise UserError(f"trace must be CLASS/NUMBER, several separated by commas, got {trace!r}")
    return [(name.strip(), int(image)) for name, image in re.findall(r"([^/]+)/(\d+)\s*,?", trace)]


def read_stops(trace_stops: str, steps: int) -> list[int]:
    """Read N,... from 0 to `steps`; ascending."""
    stops = trace_stops.split(",")
    if not all(stop.strip().isdecimal() and int(stop) <= steps for stop in stops):
        raise UserError(f"trace_stops must be numbers from 0 to {steps}, got {trace_stops!r}")
    return sorted({int(stop) for stop in stops})
