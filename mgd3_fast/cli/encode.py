"""`mgd3-fast encode`."""

from __future__ import annotations

import argparse
import json

from mgd3_fast.cli.options import add_options, add_reporting, config_from, progress_from
from mgd3_fast.cli.process import loading
from mgd3_fast.config import EncodeShareConfig
from mgd3_fast.config.encode import read_shard


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, EncodeShareConfig)
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Encode and report."""
    config = config_from(arguments, EncodeShareConfig)
    with loading():
        from mgd3_fast.run.encoding import encode

    report, sources = encode(config, progress_from(arguments), read_shard(config.shard))
    if arguments.json:
        summary = {
            "folder": str(sources.store.folder),
            "encoded": report.images,
            "reused": report.reused,
            "skipped": len(report.bad_images),
            "bytes_written": report.bytes_written,
            "seconds": round(report.seconds, 3),
            "counts": report.counts,
        }
        print(json.dumps(summary))
    elif not arguments.quiet:
        skipped = f", {len(report.bad_images):,} skipped" if report.bad_images else ""
        print(
            f"{report.images:,} images encoded, {report.reused:,} were there{skipped},"
            f" in {report.seconds:.1f} s\nlatents: {sources.store.folder}"
        )
    return 0
