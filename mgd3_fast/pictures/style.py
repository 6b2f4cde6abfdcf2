"""How matplotlib draws here: the same on every machine, and names as they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mgd3_engine.files.renaming import renamed
from mgd3_fast.errors import missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def check_matplotlib() -> None:
    """Raise a `UserError` that says how to install it where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise missing("plot must be off without matplotlib", "plot")


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in matplotlib's own style instead of the user's; dollars in names are no formulas."""
    import matplotlib.style

    with matplotlib.style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        # A letter that matplotlib's font lacks becomes a box, which says it as well.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_legend(figure: Figure, axes: Axes, place: str) -> None:
    """Name what some axes show, in a row outside of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc=f"outside {place} center", ncols=len(labels), frameon=False)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG file, whole or not at all."""
    with renamed(path) as unfinished:
        # No software version in the file: equal figures give equal bytes.
        figure.savefig(unfinished, dpi=120, format="png", metadata={"Software": None})
    return path
