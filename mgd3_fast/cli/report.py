"""`mgd3-fast report`."""

from __future__ import annotations

import argparse
import json

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.report import ReportConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="DIR", help="a finished run of distill")
    add_options(parser, ReportConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where."""
    config = config_from(arguments, ReportConfig)
    with loading():
        from mgd3_fast.report import write_report

    page = write_report(config, progress_from(arguments))
    if arguments.json:
        print(json.dumps({"file": str(page), "bytes": page.stat().st_size}))
    elif not arguments.quiet:
        print(f"{page}, {page.stat().st_size / 1e6:.1f} MB: open it in a browser")
    return 0
