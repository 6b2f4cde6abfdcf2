"""`mgd3-fast encode`."""

from __future__ import annotations

from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config import EncodeShareConfig
from mgd3_fast.config.sharding import read_shard
from mgd3_fast.progress import Progress

CONFIG = EncodeShareConfig
EXAMPLES = {
    "mgd3-fast encode --dataset imagenet1k --data-dir ILSVRC2012": "once, before many runs of distill",
    "mgd3-fast encode --dataset imagenet1k --data-dir ILSVRC2012 --shard 3/8": "one of eight machines' part",
}


def run(config: EncodeShareConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Encode a dataset."""
    with loading():
        from mgd3_fast.run.sources import encode

    report, sources = encode(config, progress, read_shard(config.shard))
    skipped = f", {len(report.bad_images):,} skipped" if report.bad_images else ""
    result = {
        "folder": str(sources.store.folder),
        "encoded": report.images,
        "reused": report.reused,
        "skipped": len(report.bad_images),
        "bytes_written": report.bytes_written,
        "seconds": round(report.seconds, 3),
        "counts": report.counts,
    }
    return result, (
        f"{report.images:,} images encoded, {report.reused:,} were there{skipped},"
        f" in {report.seconds:.1f} s\nlatents: {sources.store.folder}"
    )
