"""The command `mgd3-fast`: arguments in, one job done, an exit status out.

Exit status 0: done. 2: the user's mistake, one line on standard error. 130: interrupted, what was done is
kept. 1 with a traceback: a bug of ours.

A command is a module here with its `CONFIG`, whose fields are its options, and `run(config, progress)`, which
does the job and returns its result, for `--json` and as text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

from mgd3_fast import __version__
from mgd3_fast.errors import is_out_of_memory, is_users_mistake, printable, shortened
from mgd3_fast.interruption import INTERRUPTED, terminable
from mgd3_fast.progress import Progress

COMMANDS = {
    "distill": "the main job: encode -> discover -> sample -> decode -> write; skips what is already there",
    "check": "look at a dataset before any work: what stops a run, what spoils its results, what to do",
    "encode": "only the latent store",
    "discover": "only the modes",
    "evaluate": "train classifiers on distilled folders and test them on real images",
    "compare": "MGD3 beside the generator alone and real images: tables, and a verdict in words",
    "train": "fit a generator (autoencoder and DiT) on a dataset",
    "judge": "is a generator any good: good, usable or poor, from its reconstructions and samples",
    "tune": "how strongly to guide a generator: mode scale, t_stop and CFG by accuracy on held-out images",
    "export": "the network as an ONNX graph or a TensorRT engine, ahead of time",
    "metrics": "how diverse and representative distilled folders are, beside the real images",
    "convert": "a distilled folder into another format: numeric, tensor, parquet, webdataset",
    "report": "one self-contained HTML page about a distilled folder",
    "doctor": "what this machine has, which backends work and why the others do not",
}
DONE, BUG, MISTAKE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status.

    Args:
        argv: Arguments without the program's name; the process's own by default.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # Paths that are not UTF-8 are printed as they are, not refused.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        with terminable():
            _run(list(sys.argv[1:] if argv is None else argv))
            return DONE
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else BUG
    except KeyboardInterrupt as interruption:
        kept = f": {interruption}" if str(interruption) else ""
        print(f"mgd3-fast: interrupted{kept}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        mistake = is_users_mistake(error)
        if not mistake or os.environ.get("MGD3_DEBUG"):
            traceback.print_exc()
        if not mistake:
            return BUG
        print(f"mgd3-fast: error: {_one_line(error)}", file=sys.stderr)
        return MISTAKE


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    """Declare the options of a command, those that every command has at the end."""
    module = import_module(f"mgd3_fast.cli.{command}")
    _add_options(parser, module.CONFIG, getattr(module, "FLAGS", {}))
    parser.add_argument("--quiet", action="store_true", help="print no progress, only mistakes")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _run(argv: list[str]) -> None:
    """Only the named command's module is imported, and heavy libraries only when it runs."""
    parser = _OneLineParser(
        prog="mgd3-fast",
        description="Mode-guided diffusion dataset distillation: a labelled dataset in, a small one out.",
        epilog="`mgd3-fast COMMAND --help` lists a command's options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mgd3-fast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name in argv[:1]:
            configure(name, command)
    arguments = parser.parse_args(argv)
    module = import_module(f"mgd3_fast.cli.{arguments.command}")
    config = _config_from(arguments, module.CONFIG)
    result, text = module.run(config, Progress(quiet=arguments.quiet))
    if arguments.json:
        print(json.dumps(result))
    elif not arguments.quiet or arguments.command in ("check", "doctor"):  # whose only result is this text
        print(text)


class _OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line on standard error, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is, then leave with status 2."""
        line = shortened(printable(" ".join(message.split())))
        print(f"mgd3-fast: error: {line} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _add_options(parser: argparse.ArgumentParser, config_class: type[Any], flags: Mapping[str, str]) -> None:
    """Give a parser one option, or argument, per field of a configuration; see `mgd3_fast.config.fields`.

    Options are named as their fields, or as `flags` says.
    """
    declared = [one for one in fields(config_class) if "help" in one.metadata]
    for one in sorted(declared, key=lambda one: one.default is not MISSING):
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


def _config_from(arguments: argparse.Namespace, config_class: type[Any]) -> Any:
    """Build and check a configuration from parsed options; what was not given keeps its default."""
    given = [one for one in fields(config_class) if hasattr(arguments, one.name)]
    return config_class(**{one.name: _parsed(one, getattr(arguments, one.name)) for one in given})


def _help_text(one: Field[Any]) -> str:
    text = str(one.metadata["help"]).replace("%", "%%")
    if one.default is MISSING:
        return f"{text} (required)"
    default = ",".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
    return text if default in (None, "") or default is False else f"{text} (default: {default})"


def _parsed(one: Field[Any], text: str | list[str]) -> Any:
    """Text the field's parser refuses goes on as it is: the configuration's own check names the rule."""
    if text == "" or (isinstance(text, list) and "" in text):
        return text  # as a path it would silently be the folder at hand
    try:
        return one.metadata["parse"](text)
    except ValueError:
        return text


def _one_line(error: BaseException) -> str:
    """Say an error in one line of at most 400 characters: the file first where the system names one."""
    text = " ".join(str(error).split()) or type(error).__name__
    if is_out_of_memory(error):
        text = "the memory does not hold a batch: try a smaller --batch-size where the command has one"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return shortened(printable(text))
