"""Docstrings of configurations: they tell of every field what the command line's help tells."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.cli import COMMANDS
from mgd3_fast.config import DistillConfig

ROOT = Path(__file__).parents[2]
CONFIGS = {name: import_module(f"mgd3_fast.cli.{name}").CONFIG for name in COMMANDS}


def entries(config: Any) -> dict[str, str]:
    """What the docstring says of each field, on one line."""
    text = inspect.getdoc(config).partition("\n\nArgs:\n")[2].partition("\n\nRaises:\n")[0]
    found = re.split(r"^ {4}(\w+): ", text, flags=re.M)[1:]
    return {name: " ".join(said.split()) for name, said in zip(found[::2], found[1::2], strict=True)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_field_has_its_meaning_default_and_choices(config: Any) -> None:
    told = entries(config)
    assert list(told) == [one.name for one in fields(config)]
    for one in fields(config):
        said, help = told[one.name], one.metadata["help"]
        assert said.startswith(re.split(r"--| \(default", help)[0].strip()), one.name
        assert said.endswith("Required.") == (one.default is MISSING)
        assert all(choice in said for choice in one.metadata["choices"])
        if one.default not in (MISSING, None, "", ()) and not isinstance(one.default, (tuple, bool)):
            assert f"(default: {one.default})" in said, one.name


def test_ranges_are_told_and_options_have_their_python_names() -> None:
    told = entries(DistillConfig)
    assert told["ipc"].endswith("A whole number of at least 1. Required.")
    assert told["seed"].endswith("A whole number from 0 to 4294967295.")
    assert told["eta"].endswith("(default: 0.0). A number from 0 to 1.")
    assert "`t_stop`" in told["t_stop_of"]
    assert "evaluate --eval-split val" in told["split"]  # of another command: as it is typed


def test_raises_comes_last_and_the_summary_first() -> None:
    lines = inspect.getdoc(DistillConfig).splitlines()
    assert lines[0].startswith("What `distill` is asked to do.")
    assert lines[-2] == "Raises:"
    assert lines[-1].startswith("    UserError: ")


def test_the_site_shows_what_help_shows() -> None:
    griffe = pytest.importorskip("griffe", reason="needs the extra docs")
    extensions = griffe.load_extensions(str(ROOT / "docs" / "hooks" / "field_docstrings.py"))
    seen = griffe.GriffeLoader(extensions=extensions, search_paths=[str(ROOT)]).load("mgd3_fast")
    for config in CONFIGS.values():
        of_site = seen[config.__module__.removeprefix("mgd3_fast.")][config.__name__]
        sections = {one.kind.value: one.value for one in of_site.docstring.parse("google")}
        described = {one.name: one for one in sections["parameters"]}
        assert list(described) == [one.name for one in fields(config)]
        for one in fields(config):
            assert described[one.name].default == (None if one.default is MISSING else repr(one.default))
