"""Every error line that docs/troubleshooting.md explains stands in the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST_CELL = re.compile(r"^\| (`[^|]*) \|", re.MULTILINE)
LINES = [
    words
    for cell in FIRST_CELL.findall((ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"))
    for words in re.findall(r"`([^`]+)`", cell)
]


@cache
def messages() -> str:
    """All texts of the source, which calls --data-dir `data_dir`; what is put in at run time is left out."""
    texts: list[str] = []
    for folder in ("mgd3_fast", "engine"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_many_lines_are_explained():
    assert len(LINES) >= 40


@pytest.mark.parametrize("words", LINES)
def test_an_explained_line_is_real(words: str):
    in_code = re.sub(r"^--([a-z-]+)", lambda option: option[1].replace("-", "_"), words)
    assert in_code in messages()
