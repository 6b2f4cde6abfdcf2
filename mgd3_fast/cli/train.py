"""`mgd3-fast train`."""

from __future__ import annotations

import argparse
import json

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.train import TrainConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, TrainConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train and report."""
    config = config_from(arguments, TrainConfig)
    with loading():
        from mgd3_fast.train import train

    folder = train(config, progress_from(arguments))
    if arguments.json:
        print(json.dumps({"folder": str(folder)}))
    elif not arguments.quiet:
        print(f"generator folder: {folder}\nuse it with: mgd3-fast distill --generator {folder} ...")
    return 0
