"""The bar of a stage on a terminal or in a notebook, drawn by tqdm: imported when there is one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

from mgd3_fast.progress.bars import Bar, Pace


class PacedTqdm(tqdm):  # type: ignore[type-arg]
    """A bar whose rate, and so the time left, is its pace's where it has one."""

    pace: Pace | None = None

    @property
    def format_dict(self) -> Any:
        """What tqdm shows, by name."""
        shown = super().format_dict
        return shown if self.pace is None else {**shown, "rate": self.pace.rate()}


def notebook_bar() -> type[PacedTqdm]:
    """Choose a widget where ipywidgets is installed, else the terminal's line of text."""
    if find_spec("ipywidgets") is None:
        return PacedTqdm
    from tqdm import notebook

    class WidgetTqdm(PacedTqdm, notebook.tqdm):  # type: ignore[type-arg]
        pass

    return WidgetTqdm


class TerminalBar(Bar):
    """A bar of tqdm's, with a pace of its own where units come in batches."""

    def __init__(self, bar: PacedTqdm, pace: Pace | None) -> None:
        self._bar = bar
        bar.pace = pace

    def advance(self, n: int = 1) -> None:
        """Count `n` more finished units."""
        if self._bar.pace is not None:
            self._bar.pace.advance(n)
        self._bar.update(n)

    def still(self) -> None:
        """Show the time that has passed; from any thread."""
        self._bar.refresh()

    def skip(self, n: int) -> None:
        """Count `n` more units that an earlier run finished."""
        self._bar.initial += n
        self._bar.last_print_n += n
        self._bar.n += n
        if self._bar.pace is not None:
            self._bar.pace.skip(n)
        self._bar.refresh()
