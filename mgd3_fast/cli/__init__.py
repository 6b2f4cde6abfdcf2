"""The command `mgd3-fast`: arguments in, one job done, an exit status out.

Exit status 0: done. 2: the user's mistake, one line on standard error. 130: interrupted, what was done is
kept. 1 with a traceback: a bug of ours.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

from mgd3_fast import __version__
from mgd3_fast.cli.mistakes import is_users_mistake, one_line
from mgd3_fast.cli.options import OneLineParser

COMMANDS = {
    "distill": "the main job: encode -> discover -> sample -> decode -> write; skips what is already there",
    "encode": "only the latent store",
    "discover": "only the modes",
    "evaluate": "train classifiers on distilled folders and test them on real images",
    "train": "fit a generator (autoencoder and DiT) on a dataset",
    "export": "the network as an ONNX graph or a TensorRT engine, ahead of time",
    "metrics": "how diverse and representative distilled folders are, beside the real images",
    "convert": "a distilled folder into another format: numeric, tensor, parquet, webdataset",
    "report": "one self-contained HTML page about a distilled folder",
    "doctor": "what this machine has, which backends work and why the others do not",
}
DONE, BUG, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; the process's own by default.

    Returns:
        The exit status.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # Paths that are not UTF-8 are printed as they are, not refused.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        with _terminable():
            arguments = list(sys.argv[1:] if argv is None else argv)
            return _run(arguments)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else BUG
    except KeyboardInterrupt as interruption:
        print(f"mgd3-fast: interrupted{_kept(interruption)}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not is_users_mistake(error):
            traceback.print_exc()
            return BUG
        if os.environ.get("MGD3_DEBUG"):
            traceback.print_exc()
        print(f"mgd3-fast: error: {one_line(error)}", file=sys.stderr)
        return MISTAKE


def _run(argv: list[str]) -> int:
    """Only the named command's module is imported, and heavy libraries only when it runs."""
    parser = OneLineParser(
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
            import_module(f"mgd3_fast.cli.{name}").configure(command)
    arguments = parser.parse_args(argv)
    status: int = import_module(f"mgd3_fast.cli.{arguments.command}").run(arguments)
    return status


def _kept(interruption: KeyboardInterrupt) -> str:
    return f": {interruption}" if str(interruption) else ""


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send, like Ctrl-C; only the main thread may."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
