"""Docstrings of configurations: what the command line's help says of each field, for `help()`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from inspect import cleandoc
from textwrap import fill
from typing import Any, TypeVar

_WIDTH = 110
_RAISES = """

Raises:
    UserError: A value is not allowed, or does not fit another. The message names field, rule and value.
"""

Config = TypeVar("Config")


def documented(config: type[Config]) -> type[Config]:
    """Add to a configuration's docstring what each field means, its default and what it allows."""
    config.__doc__ = _WithFields(config.__doc__ or "")  # type: ignore[assignment]
    return config


def help_text(one: Field[Any]) -> str:
    """What the command line's help says of a field, with its default where that is a value."""
    text = str(one.metadata["help"])
    default = ",".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
    shown = default not in (MISSING, None, "") and default is not False
    return f"{text} (default: {default})" if shown else text


class _WithFields:
    """A docstring that is put together when somebody reads it: importing a configuration costs nothing."""

    def __init__(self, summary: str) -> None:
        self._summary = summary

    def __get__(self, _: object, config: type) -> str:
        entries = "\n".join(_entries(fields(config)))
        return f"{cleandoc(self._summary)}\n\nArgs:\n{entries}{_RAISES}"


def _entries(declared: tuple[Field[Any], ...]) -> Iterator[str]:
    options = {"--" + one.name.replace("_", "-"): one.name for one in declared}
    for one in declared:
        text = re.sub(r"--[a-z][a-z-]*", lambda word: _in_python(word[0], options), help_text(one))
        told = f"{one.name}: {text}{'' if text.endswith('.') else '.'}{_allowed(one)}"
        yield fill(told, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)


def _in_python(option: str, options: dict[str, str]) -> str:
    return f"`{options[option]}`" if option in options else option


def _allowed(one: Field[Any]) -> str:
    choices, span = one.metadata["choices"], one.metadata["span"]
    said = f" One of {', '.join(choices)}." if choices else f" {span[0].upper()}{span[1:]}." if span else ""
    return f"{said} Required." if one.default is MISSING else said
