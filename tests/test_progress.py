"""Progress on a terminal, in a log file, and silenced."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from mgd3_fast.progress import SILENT, Progress, bars, reporting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the log's clock shows; change the first element."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
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


def test_time_left_is_of_what_the_units_that_are_left_cost(clock: list[float]) -> None:
    """Four cheap units, of which two were done before, then four that cost ten times as much."""
    stream = io.StringIO()
    costs = [1.0] * 4 + [10.0] * 4
    with Progress(stream=stream).stage("evaluate", total=8, unit="epoch", costs=costs) as bar:
        bar.skip(2)
        for clock[0] in (5.0, 10.0, 60.0):
            bar.advance()
        bar.skip(1)
    assert stream.getvalue().splitlines() == [
        "evaluate: 4/8 epoch, 0.02 epoch/s, 3 min left",
        "evaluate: 5/8 epoch, 0.02 epoch/s, 2 min left",
        "evaluate: 6/8 epoch, 0.02 epoch/s, 100 s left",
    ]


def test_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    stream = Terminal()
    with Progress(stream=stream).stage("sample", total=4, unit="img", initial=1) as bar:
        bar.advance(3)
    assert "sample: 100%" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "img/s" in stream.getvalue()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The shell of a notebook's kernel, whose standard error is no terminal."""
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return shell


def show_a_stage(progress: Progress) -> None:
    with progress.stage("sample", total=64, unit="img", batch=32, first_apart=True) as bar:
        bar.skip(32)
        bar.advance(16)
        progress.note("half of the rest")
        bar.advance(16)


@pytest.mark.usefixtures("kernel")
def test_notebook_without_widgets_gets_a_bar_of_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mgd3_fast.progress.terminal.find_spec", lambda name: None)
    show_a_stage(Progress())
    shown = capsys.readouterr().err
    assert re.search(r"sample: 100%\|█+\| 64/64", shown)
    assert "\rhalf of the rest\n" in shown


@pytest.mark.usefixtures("kernel")
def test_notebook_with_widgets_gets_a_widget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[SimpleNamespace] = []
    style = SimpleNamespace()
    children = [SimpleNamespace(value="", bar_style="", max=64, style=style) for _ in range(3)]
    widget = SimpleNamespace(children=children, layout=SimpleNamespace(), close=lambda: None)
    monkeypatch.setattr("mgd3_fast.progress.terminal.find_spec", lambda name: name)
    monkeypatch.setattr("tqdm.notebook.tqdm.status_printer", lambda *_: widget)
    monkeypatch.setattr("tqdm.notebook.display", shown.append, raising=False)
    show_a_stage(Progress())
    _, bar, counts = widget.children
    assert shown == [widget]
    assert bar.value == 64
    assert "64/64" in counts.value
    assert capsys.readouterr().err == "half of the rest\n"


@pytest.mark.usefixtures("kernel")
def test_a_log_file_in_a_notebook_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = io.StringIO()
    show_a_stage(Progress(stream=lines))
    assert lines.getvalue().splitlines() == ["half of the rest", "sample: 64/64 img"]
    assert capsys.readouterr().err == ""


def test_ipython_in_a_terminal_is_no_notebook(
    kernel: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.config = {}
    show_a_stage(Progress())
    assert capsys.readouterr().err.splitlines() == ["half of the rest", "sample: 64/64 img"]


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


def advance_batches(clock: list[float], stream: io.StringIO, **options: bool) -> None:
    """Four batches of 64, decoded 32 at a time: 40 s for the first, 12 s for each of the others."""
    with Progress(stream=stream).stage("sample", total=256, unit="img", batch=64, **options) as bar:
        for start in (40.0, 52.0, 64.0, 76.0):
            for clock[0] in (start - 0.5, start):
                bar.advance(32)


def test_first_batch_says_nothing_of_the_rate(clock: list[float]) -> None:
    lines = io.StringIO()
    advance_batches(clock, lines, first_apart=True)
    assert lines.getvalue().splitlines() == [
        "sample: 32/256 img",
        "sample: 96/256 img",  # half a batch says nothing yet
        "sample: 160/256 img, 5.333 img/s, 18 s left",
        "sample: 224/256 img, 5.333 img/s, 6 s left",
        "sample: 256/256 img, 5.333 img/s",
    ]


def test_whole_batches_say_how_fast_it_goes(clock: list[float]) -> None:
    lines = io.StringIO()
    advance_batches(clock, lines)
    assert lines.getvalue().splitlines()[1:3] == [
        "sample: 96/256 img, 1.6 img/s, 100 s left",
        "sample: 160/256 img, 2.462 img/s, 39 s left",
    ]


def test_terminal_shows_the_same_rate_and_none_before_it_is_known(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    terminal = Terminal()
    advance_batches(clock, terminal, first_apart=True)
    shown = [line for line in terminal.getvalue().split("\r") if line.strip()]
    assert all("?img/s" in line for line in shown if " 64/256" in line or " 96/256" in line)
    assert any(" 64/256" in line for line in shown)
    (known,) = (line for line in shown if " 192/256" in line)
    assert "[01:04<00:12,  5.33img/s]" in known


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said every minute is said every hundredth of a second, and a second passes as quickly."""
    for module in (bars, reporting):
        monkeypatch.setattr(module, "SILENCE_S", 0.01)
    monkeypatch.setattr(reporting, "_REFRESH_S", 0.01)


def wait_for(stream: io.StringIO, text: str) -> None:
    """Until another thread has printed a text; at most 10 s."""
    until = time.perf_counter() + 10
    while text not in stream.getvalue():
        assert time.perf_counter() < until, stream.getvalue()
        time.sleep(0.005)


@pytest.mark.usefixtures("quick")
def test_a_unit_that_takes_minutes_is_not_silent() -> None:
    lines, terminal = io.StringIO(), Terminal()
    with Progress(stream=lines).stage("sample", total=3, unit="img") as bar:
        bar.advance()
        wait_for(lines, "sample: 1/3 img, ")
        wait_for(lines, ", still at work\n")
    with Progress(stream=terminal).stage("sample", total=3, unit="img"):
        drawn = terminal.getvalue().count("0/3")
        until = time.perf_counter() + 10
        while terminal.getvalue().count("0/3") < drawn + 2:
            assert time.perf_counter() < until
            time.sleep(0.005)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_activity_is_said_while_it_lasts_and_timed(
    kind: type[io.StringIO], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "SILENCE_S", 60.0)
    stream = kind()
    with Progress(stream=stream).activity("loading dit-xl-2-256", after_s=0.01):
        wait_for(stream, "loading dit-xl-2-256 ...\n")
        clock[0] = 31.0
    assert stream.getvalue().splitlines() == ["loading dit-xl-2-256 ...", "loading dit-xl-2-256: 31 s"]


@pytest.mark.usefixtures("quick")
def test_an_activity_of_minutes_says_how_many(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(stream=stream).activity("loading dit-xl-2-256", after_s=0.01):
        clock[0] = 180.0
        wait_for(stream, "loading dit-xl-2-256 ... 3 min\n")


def test_activity_that_is_over_in_a_moment_or_quiet_is_not_mentioned(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(stream=stream).activity("loading demo-mnist5k", after_s=60.0):
        clock[0] = 59.0
    with Progress(quiet=True, stream=stream).activity("loading demo-mnist5k", after_s=0.0):
        pass
    assert stream.getvalue() == ""


def test_activity_that_fails_leaves_no_timer() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="no weights"), Progress(stream=io.StringIO()).activity("loading"):
        raise ValueError("no weights")
    assert threading.active_count() == before
