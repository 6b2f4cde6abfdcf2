"""`mgd3-fast train`."""

from __future__ import annotations

import argparse
from typing import Any

from mgd3_fast.cli.options import add_options, config_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.train import TrainConfig
from mgd3_fast.progress import Progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, TrainConfig)


def run(arguments: argparse.Namespace, progress: Progress) -> tuple[dict[str, Any], str]:
    """Fit a generator."""
    config = config_from(arguments, TrainConfig)
    with loading():
        from mgd3_fast.train import train

    folder = train(config, progress)
    return {"folder": str(folder)}, (
        f"generator folder: {folder}\nuse it with: mgd3-fast distill --generator {folder} ..."
    )
