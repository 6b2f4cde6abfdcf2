"""Which differences from a record count, on the machine that recorded it and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.golden.store import HERE, LEVELS, Golden, differences

ONE, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("recorded", "found", "same_machine", "elsewhere"),
    [
        pytest.param(ONE, OTHER, False, True, id="hash"),
        pytest.param(ONE, "a", False, False, id="hash and another text"),
        pytest.param(f"{HERE}1", f"{HERE}2", False, True, id="library"),
        pytest.param(f"{LEVELS}10ff", f"{LEVELS}11fe", False, True, id="levels by one"),
        pytest.param(f"{LEVELS}10ff", f"{LEVELS}12ff", False, False, id="levels by two"),
        pytest.param(1.0, 1.00001, False, True, id="numbers, nearly"),
        pytest.param(1.0, 1.001, False, False, id="numbers"),
        pytest.param(1, 2, False, False, id="whole numbers"),
        pytest.param(1, True, False, False, id="types"),
        pytest.param("a", "b", False, False, id="words"),
        pytest.param([1], [1, 2], False, False, id="lengths"),
        pytest.param({"x": 1, "y": 2}, {"y": 2, "x": 1}, False, False, id="order"),
        pytest.param({"x": {"y": [ONE]}}, {"x": {"y": [ONE]}}, True, True, id="equal"),
    ],
)
def test_differences_are_seen(recorded: Any, found: Any, same_machine: bool, elsewhere: bool) -> None:
    assert (not list(differences(recorded, found, "x", exact=True))) is same_machine
    assert (not list(differences(recorded, found, "x", exact=False))) is elsewhere


def test_a_record_is_compared_after_it_was_made(tmp_path: Path) -> None:
    Golden(True, tmp_path).check("runs", {"sha256": ONE, "steps": [4, 0.5]})
    Golden(False, tmp_path).check("runs", {"sha256": ONE, "steps": [4, 0.5]})
    with pytest.raises(AssertionError, match=r"runs > sha256: 'a+' was recorded, got 'b+'"):
        Golden(False, tmp_path).check("runs", {"sha256": OTHER, "steps": [4, 0.5]})
    with pytest.raises(AssertionError, match="nothing is recorded for others"):
        Golden(False, tmp_path).check("others", {})


def test_another_machine_is_told(tmp_path: Path) -> None:
    Golden(True, tmp_path).check("runs", {"sha256": ONE, "steps": 4})
    path = tmp_path / "runs.json"
    path.write_text(path.read_text().replace('"processor": "', '"processor": "another '))
    with pytest.warns(UserWarning, match="runs: no bytes are compared, .* another processor"):
        Golden(False, tmp_path).check("runs", {"sha256": OTHER, "steps": 4})
    with pytest.raises(AssertionError, match="steps"), pytest.warns(UserWarning, match="no bytes"):
        Golden(False, tmp_path).check("runs", {"sha256": ONE, "steps": 5})
