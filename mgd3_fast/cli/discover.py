"""`mgd3-fast discover`."""

from __future__ import annotations

import argparse
import json

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.config import DiscoverConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, DiscoverConfig, flags={"discovery": "--method"})
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find modes and report."""
    config = config_from(arguments, DiscoverConfig)
    from mgd3_fast.stages import discover

    path, modes = discover(config, progress_from(arguments))
    if arguments.json:
        summary = {
            "file": str(path),
            "classes": len(modes.class_names),
            "ipc": modes.ipc,
            "method": modes.method,
            "seed": modes.seed,
            "key": modes.key,
        }
        print(json.dumps(summary))
    elif not arguments.quiet:
        print(f"{modes.ipc:,} modes for each of {len(modes.class_names):,} classes in {path}")
    return 0
