"""The options of a command: the fields of its configuration under headings, and what was typed read back."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from textwrap import fill
from types import ModuleType
from typing import Any, NoReturn

from mgd3_fast.config.documented import help_text
from mgd3_fast.errors import printable, shortened

GROUPS = {
    "data": "dataset data_dir classes split eval_split real_images size fit background on_bad_image flip",
    "generator": "generator vae init generator_classes generator_heads posterior storage",
    "modes": "ipc discovery kmeans discovery_seed modes",
    "sampling": "method preset seed sampler steps spacing steps_offset eta cfg_scale cfg_interval"
    " mode_scale t_stop t_stop_of guidance_form start_strength cache_steps cache_order cache_from",
    "prompts of Stable Diffusion": "prompts prompt_template synonyms negative_prompt",
    "output": "out format image_size trace trace_stops plot plot_classes projection keep_weights",
    "machine": "device precision backend compile batch_size workers ray_address shard cache_dir",
}
"""Fields by the heading that the help has them under; those of a command's own `GROUPS` come first."""
EVERYWHERE = ("-h", "--help", "--quiet", "--json")
_WIDTH = 79


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line on standard error, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is, then leave with status 2."""
        line = shortened(printable(" ".join(message.split())))
        self.exit(2, f"mgd3-fast: error: {line} (see {self.prog} --help)\n")


def add_options(parser: argparse.ArgumentParser, command: ModuleType) -> None:
    """Give a parser one option, or argument, per field of a command's configuration.

    Args:
        parser: Of the command.
        command: Its module: `CONFIG`, whose fields `mgd3_fast.config.fields` declares; `EXAMPLES`, what each
            command does by its words; and, where it has them, `GROUPS`, `FLAGS`, other names of options, and
            `BY_PLACE`, options that may also be given without their name.
    """
    required = []
    for heading, declared in _grouped(command):
        group = parser.add_argument_group(heading)
        for one in declared:
            told = dict(one.metadata["argparse"])
            if told.get("action") != "store_true":
                told["metavar"] = one.metadata["metavar"] or "|".join(one.metadata["choices"])
                told["metavar"] = told["metavar"] or one.name.upper()
            if "positional" in one.metadata:
                group.add_argument(one.name, help=one.metadata["help"], **told)
                required.append(told["metavar"])
                continue
            names = _flags(command, one)
            if one.default is MISSING:
                told["required"] = True
                required.append(f"{names[0]} {told['metavar']}")
            adding = group
            if one.name in getattr(command, "BY_PLACE", ()):
                adding = group.add_mutually_exclusive_group()
                place: dict[str, Any] = {"metavar": one.name.upper(), "nargs": "?", "help": f"as {names[0]}"}
                adding.add_argument(one.name, default=argparse.SUPPRESS, **place)
                required.append(f"[{place['metavar']}]")
            told["help"] = help_text(one).replace("%", "%%")
            adding.add_argument(*names, dest=one.name, default=argparse.SUPPRESS, **told)
    output = parser.add_argument_group("messages")
    output.add_argument("-h", "--help", action="help", help="show this text and exit")
    output.add_argument("--quiet", action="store_true", help="print no progress, only mistakes")
    output.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.usage = " ".join([parser.prog, *required, "[options]"]).replace("%", "%%")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = fill(parser.description or "", _WIDTH)
    parser.epilog = "\n".join(
        ["examples:", *(f"  {typed}\n      {does}" for typed, does in command.EXAMPLES.items())]
    )


def config_from(arguments: argparse.Namespace, config_class: type[Any]) -> Any:
    """Build and check a configuration from parsed options; what was not given keeps its default."""
    given = [one for one in fields(config_class) if hasattr(arguments, one.name)]
    return config_class(**{one.name: _parsed(one, getattr(arguments, one.name)) for one in given})


def unknown_option(words: Sequence[str], command: ModuleType) -> str:
    """Say which word of a command line is no option of the command, and what may be meant; "" if none is."""
    options = [one for one in _declared(command) if "positional" not in one.metadata]
    known = [*EVERYWHERE, *(name for one in options for name in _flags(command, one))]
    for word in words[: words.index("--")] if "--" in words else words:
        name = word.partition("=")[0]
        if re.match("--|-[A-Za-z]", name) and name not in known:
            return f"unknown option {name}{did_you_mean(name, known)}"
    return ""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The known word that is most like another, as the end of a complaint."""
    bare = {name.lstrip("-"): name for name in known}
    like = get_close_matches(word.lstrip("-"), bare, n=1)
    return f", did you mean {bare[like[0]]}?" if like else ""


def as_typed(message: str, command: ModuleType) -> str:
    """Name options as they are typed in a message that begins with what one must be."""
    names = {
        one.name: _flags(command, one)[0] for one in _declared(command) if "positional" not in one.metadata
    }
    words = "|".join(names)
    start = re.match(rf"(?:(?:{words}) and )?(?:{words}) must\b", message)
    if start is None:
        return message
    head, tail = message[: start.end()], message[start.end() :]
    head = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), head)
    rule, got, value = re.split(r"(, got |: |$)", tail, maxsplit=1)
    return head + re.sub(r"\w+_\w+", lambda word: names.get(word[0], word[0]), rule) + got + value


def _declared(command: ModuleType) -> list[Field[Any]]:
    """Fields that are options or arguments, those without a default first."""
    declared = [one for one in fields(command.CONFIG) if "help" in one.metadata]
    return sorted(declared, key=lambda one: one.default is not MISSING)


def _flags(command: ModuleType, one: Field[Any]) -> tuple[str, ...]:
    named: Mapping[str, tuple[str, ...]] = getattr(command, "FLAGS", {})
    return named.get(one.name, ("--" + one.name.replace("_", "-"),))


def _grouped(command: ModuleType) -> list[tuple[str, list[Field[Any]]]]:
    """Fields by heading: what must be given, those of this command alone, then group after group."""
    left = {one.name: one for one in _declared(command)}
    grouped = [("required", [left.pop(name) for name, one in list(left.items()) if one.default is MISSING])]
    own: Mapping[str, str] = getattr(command, "GROUPS", {})
    under = {name: heading for heading, names in {**GROUPS, **own}.items() for name in names.split()}
    for heading in (*own, "options", *GROUPS):
        names = [name for name in left if under.get(name, "options") == heading]
        grouped.append((heading, [left.pop(name) for name in names]))
    return [(heading, found) for heading, found in grouped if found]


def _parsed(one: Field[Any], text: str | list[str]) -> Any:
    """Text the field's parser refuses goes on as it is: the configuration's own check names the rule."""
    if text == "" or (isinstance(text, list) and "" in text):
        return text  # as a path it would silently be the folder at hand
    try:
        return one.metadata["parse"](text)
    except ValueError:
        return text
