"""Messages: lists of any length, lines of at most 400 characters, names that are not UTF-8."""

from __future__ import annotations

import io
import os

import pytest

from mgd3_fast.cli.mistakes import one_line
from mgd3_fast.errors import LONGEST_LINE, UserError, listed, printable, shortened
from mgd3_fast.progress import Progress


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["ant"], "ant"),
        (["ant", 7], "ant, 7"),
        (list("abcdef"), "a, b, c, d, e and 1 more"),
        (range(1000), "0, 1, 2, 3, 4 and 995 more"),
    ],
)
def test_lists_name_the_first_five_and_count_the_others(names: list[object], text: str) -> None:
    assert listed(names) == text


def test_lists_of_long_names_stay_short() -> None:
    text = listed("x" * 200 + str(number) for number in range(1000))
    assert len(text) <= 140
    assert text.endswith(" and 999 more")


def test_long_lines_keep_both_ends() -> None:
    assert shortened("x" * 400) == "x" * 400
    line = shortened("begin" + "x" * 1000 + "end")
    assert len(line) == LONGEST_LINE
    assert (line[:5], line[-3:]) == ("begin", "end")


@pytest.mark.parametrize("error", [UserError("x" * 1000), ValueError("x" * 1000), OSError(5, "x" * 1000)])
def test_no_mistake_is_longer_than_a_line(error: Exception) -> None:
    assert len(one_line(error)) == LONGEST_LINE


def test_no_note_is_longer_than_a_line() -> None:
    lines = io.StringIO()
    Progress(stream=lines).note("first\n" + "x" * 1000)
    assert [len(line) for line in lines.getvalue().splitlines()] == [5, LONGEST_LINE]


def test_bytes_that_are_not_utf8_are_written_as_numbers() -> None:
    name = os.fsdecode(b"b\xe9te \xc3\xa9")
    assert printable(name) == "b\\xe9te é"
    assert str(UserError(f"class {name}")) == "class b\\xe9te é"
