"""`mgd3-fast export`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config.export import ExportConfig

if TYPE_CHECKING:
    from mgd3_fast.export.exporting import Exported

MIB = 2**20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, ExportConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export and report."""
    config = config_from(arguments, ExportConfig)
    with loading():
        from mgd3_fast.export import export

    exported = export(config, progress_from(arguments))
    if arguments.json:
        print(json.dumps(_summary(exported)))
    elif not arguments.quiet:
        print(_closing(exported))
    return 0


def _summary(exported: Exported) -> dict[str, object]:
    return {
        "file": str(exported.files[0]),
        "files": [str(file) for file in exported.files],
        "format": exported.format,
        "precision": exported.precision,
        "weights": exported.weights,
        "rows": exported.rows,
        "compute_capabilities": exported.compute_capabilities,
        "reused": exported.reused,
        "bytes": exported.bytes,
        "seconds": exported.seconds,
    }


def _closing(exported: Exported) -> str:
    first, *others = exported.files
    beside = f", with {', '.join(file.name for file in others)} beside it" if others else ""
    return (
        f"{exported.format} {exported.precision}: {first}{beside}\n"
        f"{exported.bytes / MIB:.1f} MiB {'were there' if exported.reused else 'written'},"
        f" {exported.seconds:.1f} s"
    )
