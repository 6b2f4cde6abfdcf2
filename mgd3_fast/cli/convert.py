"""`mgd3-fast convert`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.convert import ConvertConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "src", metavar="SRC", help="folder that distill wrote, or any folder of class folders"
    )
    parser.add_argument("out", metavar="OUT", help="folder that receives the result")
    add_options(parser, ConvertConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert and report."""
    config = config_from(arguments, ConvertConfig)
    with loading():
        from mgd3_fast.formats import convert

    done = convert(config, progress_from(arguments))
    if arguments.json:
        print(json.dumps({**asdict(done), "folder": str(done.folder)}))
    elif not arguments.quiet:
        found = f"{done.images:,} images of {done.classes:,} classes as {done.format} in {done.folder}"
        how = f"{done.bytes / 2**20:.1f} MiB, {done.seconds:.1f} s" if done.made else "nothing was left to do"
        print(f"{found} ({how})")
    return 0
