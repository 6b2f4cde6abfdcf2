"""Command-line options read off the fields of a configuration, and the configuration read off the options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line on standard error, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is, then leave with status 2."""
        print(f"mgd3-fast: error: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def add_options(parser: argparse.ArgumentParser, config_class: type[Any], flags: Mapping[str, str]) -> None:
    """Give a parser one option, or argument, per field of a configuration; see `mgd3_fast.config.fields`.

    Args:
        parser: Receives the options.
        config_class: Dataclass whose fields carry help, choices and parser in their metadata.
        flags: Option names that differ from the field's, by field name.
    """
    for one in sorted(fields(config_class), key=lambda one: one.default is not MISSING):
        told = dict(one.metadata["argparse"])
        if told.get("action") != "store_true":
            told["metavar"] = one.metadata["metavar"] or "|".join(one.metadata["choices"]) or one.name.upper()
        if "positional" in one.metadata:
            parser.add_argument(one.name, help=one.metadata["help"], **told)
            continue
        parser.add_argument(
            flags.get(one.name, "--" + one.name.replace("_", "-")),
            dest=one.name,
            default=argparse.SUPPRESS,
            required=one.default is MISSING,
            help=_help_text(one),
            **told,
        )


def config_from(arguments: argparse.Namespace, config_class: type[Any]) -> Any:
    """Build and check a configuration from parsed options; what was not given keeps its default.

    Raises:
        UserError: If a value is out of range.
    """
    given = [one for one in fields(config_class) if hasattr(arguments, one.name)]
    return config_class(**{one.name: _parsed(one, getattr(arguments, one.name)) for one in given})


def _help_text(one: Field[Any]) -> str:
    text = str(one.metadata["help"]).replace("%", "%%")
    if one.default is MISSING:
        return f"{text} (required)"
    default = ",".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
    return text if default is None or default is False else f"{text} (default: {default})"


def _parsed(one: Field[Any], text: str | list[str]) -> Any:
    """Text the field's parser refuses goes on as it is: the configuration's own check names the rule."""
    if text == "" or (isinstance(text, list) and "" in text):
        return text  # as a path it would silently be the folder at hand
    try:
        return one.metadata["parse"](text)
    except ValueError:
        return text
