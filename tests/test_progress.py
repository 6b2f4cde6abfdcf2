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


def test_what_an_earlier_run_did_says_nothing_of_the_rate(clock: list[float]) -> None:
    lines = io.StringIO()
    with Progress(stream=lines).stage("evaluate", total=10_000, unit="epoch") as bar:
        bar.skip(9_000)
        clock[0] = 20.0
        bar.advance(10)
        bar.skip(5)
        clock[0] = 30.0
        bar.advance(5)
    assert lines.getvalue().splitlines() == [
        "evaluate: 9010/10000 epoch, 0.5 epoch/s, 33 min left",
        "evaluate: 9020/10000 epoch, 0.5 epoch/s, 33 min left",
    ]


def test_nothing_left_has_no_rate() -> None:
    lines, terminal = io.StringIO(), Terminal()
    for stream in (lines, terminal):
        with Progress(stream=stream).stage("evaluate", total=8, unit="epoch") as bar:
            bar.skip(8)
    assert lines.getvalue() == "evaluate: 8/8 epoch\n"
    assert "8/8 [00:00<?, ?epoch/s]" in terminal.getvalue()


def test_hours_left_are_said_in_hours(clock: list[float]) -> None:
    lines = io.StringIO()
    with Progress(stream=lines).stage("train", total=100_000, unit="step") as bar:
        for clock[0] in (10.0, 20.0):
            bar.advance(50)
    assert "5 h 33 min left" in lines.getvalue()
