"""Progress bars with rate and time left on a terminal and in notebooks, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from mgd3_fast.errors import printable, shortened
from mgd3_fast.progress.bars import SILENCE_S, Bar, Pace, PlainBar, WeighedPace, duration

_REFRESH_S = 1.0


class Progress:
    """Shows how far a run is: a bar for each stage, with rate and time left, and notes.

    A terminal gets a bar that moves. So does a notebook: a widget where ipywidgets is installed, else a line
    of text. Any other stream, such as a log file, gets a line every ten seconds.

    Args:
        quiet: Print nothing at all.
        stream: Where to print; None is standard error, so that results on standard output stay clean.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream if stream is not None else sys.stderr
        self._notebook = stream is None and _in_notebook()
        self._told: set[str] = set()

    def __repr__(self) -> str:  # stands in signatures, as a default
        return f"Progress(quiet={self.quiet})"

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        total: int | None,
        unit: str,
        initial: int = 0,
        batch: int = 1,
        first_apart: bool = False,
        costs: Sequence[float] | None = None,
    ) -> Iterator[Bar]:
        """Open the bar of one stage.

        Args:
            name: Word shown before the bar, such as "encode".
            total: Units the whole stage has; None where nobody knows before the end.
            unit: What is counted, such as "img" or "class".
            initial: Units that an earlier run already finished.
            batch: Units that are worked on together; only whole batches say how fast it goes.
            first_apart: Leave the first batch out of the rate, as it compiles or captures for the others.
            costs: What each unit takes compared with the others, in their order; None where that is equal.
                Rate and time left are then those of the units that are left.

        Yields:
            A bar whose `advance` counts finished units.
        """
        if self.quiet:
            yield Bar()
            return
        pace = WeighedPace(costs, initial) if costs else Pace(total, initial, batch, first_apart)
        if self._moves:
            from mgd3_fast.progress.terminal import PacedTqdm, TerminalBar, notebook_bar

            drawn = notebook_bar() if self._notebook else PacedTqdm
            paced = batch > 1 or first_apart or costs  # else tqdm's own, which follows a rate that changes
            with drawn(desc=name, total=total, unit=unit, initial=initial, file=self.stream) as tqdm:
                bar = TerminalBar(tqdm, pace if paced else None)
                with _meanwhile(bar.still, _REFRESH_S):
                    yield bar
        else:
            plain = PlainBar(name, total, unit, pace, self.stream)
            with _meanwhile(plain.still, SILENCE_S):
                yield plain
            plain.close()

    @contextmanager
    def activity(self, name: str, *, after_s: float = 1.0) -> Iterator[None]:
        """Say what a block does that counts no units, and what it took, unless it is over in a moment.

        Args:
            name: Such as "loading dit-xl-2-256".
            after_s: Seconds that need no explanation.

        Yields:
            Nothing.
        """
        if self.quiet:
            yield
            return
        started = time.monotonic()

        def still() -> None:
            seconds = time.monotonic() - started
            self.note(f"{name} ..." if seconds < SILENCE_S else f"{name} ... {duration(seconds)}")

        with _meanwhile(still, SILENCE_S, first_s=after_s):
            yield
        seconds = time.monotonic() - started
        if seconds >= after_s:
            self.note(f"{name}: {duration(seconds)}")

    @property
    def _moves(self) -> bool:
        """Whether a bar can be drawn again where it stands."""
        return self._notebook or self.stream.isatty()

    def is_first(self, about: str) -> bool:
        """Tell, and note, whether nothing was said about something before.

        Args:
            about: A word for it. A command that is made of several runs says it once.

        Returns:
            True the first time.
        """
        first = about not in self._told
        self._told.add(about)
        return first

    def note(self, line: str) -> None:
        """Print information or a warning, above the bars.

        Args:
            line: One line or several. Of one that is too long, the middle is left out.
        """
        if self.quiet:
            return
        text = "\n".join(shortened(printable(one)) for one in line.split("\n"))
        if self._moves:
            from tqdm import tqdm

            tqdm.write(text, file=self.stream)  # above the bars
        else:
            print(text, file=self.stream, flush=True)


def _in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook; what is not imported yet stays so."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


SILENT = Progress(quiet=True)


@contextmanager
def _meanwhile(say: Callable[[], None], period_s: float, first_s: float | None = None) -> Iterator[None]:
    """Call something every so often while the block lasts, from another thread."""
    over = threading.Event()

    def repeat() -> None:
        wait_s = period_s if first_s is None else first_s
        while not over.wait(wait_s):
            say()
            wait_s = period_s

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # a line that it is writing comes before ours
