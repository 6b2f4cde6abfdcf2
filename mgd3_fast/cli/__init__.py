"""The command `mgd3-fast`: arguments in, one job done, an exit status out.

Exit status 0: done. 2: the user's mistake, one line on standard error. 130: interrupted, what was done is
kept. 1 with a traceback: a bug of ours.

A command is a module here with its `CONFIG`, whose fields are its options, `EXAMPLES` for its help, and
`run(config, progress)`, which does the job and returns its result, for `--json` and as text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from types import ModuleType

from mgd3_fast import __version__
from mgd3_fast.cli.options import (
    OneLineParser,
    add_options,
    as_typed,
    config_from,
    did_you_mean,
    unknown_option,
)
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
    "publish": "a distilled folder as a dataset of the Hugging Face hub: card, parquet, manifest, modes",
    "report": "one self-contained HTML page about a distilled folder",
    "doctor": "what this machine has, which backends work and why the others do not",
}
DONE, BUG, MISTAKE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status.

    Args:
        argv: Arguments without the program's name; the process's own by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        # Paths that are not UTF-8 are printed as they are, not refused.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        with terminable():
            _run(words)
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
        print(f"mgd3-fast: error: {_one_line(error, words)}", file=sys.stderr)
        return MISTAKE


def _run(argv: list[str]) -> None:
    arguments = _parsed(argv)
    if arguments is None:
        return
    module = _module(arguments.command)
    config = config_from(arguments, module.CONFIG)
    result, text = module.run(config, Progress(quiet=arguments.quiet))
    if arguments.json:
        print(json.dumps(result))
    elif not arguments.quiet or arguments.command in ("check", "doctor"):  # whose only result is this text
        print(text)


def _parsed(argv: list[str]) -> argparse.Namespace | None:
    """Read the words; only the named command's module is imported. None where the help was all there is."""
    parser = OneLineParser(
        prog="mgd3-fast",
        description="Mode-guided diffusion dataset distillation: a labelled dataset in, a small one out.",
        epilog="`mgd3-fast COMMAND --help` lists a command's options, with examples.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mgd3-fast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, allow_abbrev=False, add_help=False)
        if name in argv[:1]:
            module = _module(name)
            command.description = summary
            add_options(command, module)
            if unknown := unknown_option(argv[1:], module):
                command.error(unknown)
    if not argv:
        parser.print_help()
        return None
    if argv[0] not in (*COMMANDS, "-h", "--help", "--version"):
        parser.error(f"unknown command {argv[0]!r}{did_you_mean(argv[0], [*COMMANDS])}")
    arguments, left = parser.parse_known_args(argv)
    if left:
        advice = "; a wds: pattern goes in quotes" if any(word.startswith("wds:") for word in left) else ""
        commands.choices[argv[0]].error(f"unrecognized arguments: {' '.join(left)}{advice}")
    return arguments


def _module(command: str) -> ModuleType:
    return import_module(f"mgd3_fast.cli.{command}")


def _one_line(error: BaseException, argv: Sequence[str]) -> str:
    """Say an error in one line of at most 400 characters: the file first where the system names one."""
    text = " ".join(str(error).split()) or type(error).__name__
    if is_out_of_memory(error):
        text = "the memory does not hold a batch: try a smaller --batch-size where the command has one"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    elif argv and argv[0] in COMMANDS:
        text = as_typed(text, _module(argv[0]))
    return shortened(printable(text))
