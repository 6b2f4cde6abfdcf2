"""Progress on a terminal, in a log file, and silenced."""

from __future__ import annotations

import io
import re

import pytest

from mgd3_fast import progress as progress_module
from mgd3_fast.progress import SILENT, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the log's clock shows; change the first element."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(stream=stream).stage("encode", total=100, unit="img", initial=20) as bar:
        for second in range(1, 21):
            clock[0] = float(second)
            bar.advance(2)
    assert stream.getvalue().splitlines() == [
        "encode: 40/100 img, 2 img/s, 30 s left",
        "encode: 60/100 img, 2 img/s, 20 s left",
    ]


def test_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    stream = Terminal()
    with Progress(stream=stream).stage("sample", total=4, unit="img", initial=1) as bar:
        bar.advance(3)
    assert "sample: 100%" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "img/s" in stream.getvalue()


def test_notes_are_lines() -> None:
    stream = io.StringIO()
    Progress(stream=stream).note("mnist5k: 4,000 images")
    assert stream.getvalue() == "mnist5k: 4,000 images\n"


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    quiet = Progress(quiet=True, stream=stream)
    for display in (quiet, SILENT):
        with display.stage("encode", total=1, unit="img") as bar:
            bar.advance()
        display.note("unheard")
    assert stream.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_plain_lines_without_a_known_total_count_and_rate_alone() -> None:
    lines = io.StringIO()
    with Progress(stream=lines).stage("encode", total=None, unit="img", initial=5) as bar:
        bar.advance(3)
    (line,) = lines.getvalue().splitlines()
    assert re.fullmatch(r"encode: 8 img, [\d.e+]+ img/s", line)
