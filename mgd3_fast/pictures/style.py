"""How matplotlib draws here: the same on every machine, and names as they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in matplotlib's own style instead of the user's; dollars in names are no formulas."""
    import matplotlib.style

    with matplotlib.style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        # A letter that matplotlib's font lacks becomes a box, which says it as well.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        yield
