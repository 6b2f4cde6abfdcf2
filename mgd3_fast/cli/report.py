"""`mgd3-fast report`."""

from __future__ import annotations

import argparse
from typing import Any

from mgd3_fast.cli.options import add_options, config_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.report import ReportConfig
from mgd3_fast.progress import Progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare folder and options."""
    parser.add_argument("folder", metavar="DIR", help="a finished run of distill")
    add_options(parser, ReportConfig)


def run(arguments: argparse.Namespace, progress: Progress) -> tuple[dict[str, Any], str]:
    """Write the page."""
    config = config_from(arguments, ReportConfig)
    with loading():
        from mgd3_fast.report import write_report

    page = write_report(config, progress)
    size = page.stat().st_size
    return {"file": str(page), "bytes": size}, f"{page}, {size / 1e6:.1f} MB: open it in a browser"
