"""`mgd3-fast publish`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.publish import PublishConfig
from mgd3_fast.progress import Progress

CONFIG = PublishConfig
EXAMPLES = {
    "mgd3-fast publish in1k-50 you/in1k-50 --dry-run": "only write the folder: read its README.md",
    "mgd3-fast publish in1k-50 you/in1k-50": "the same folder, uploaded",
}


def run(config: PublishConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Publish a run, or write what would be."""
    with loading():
        from mgd3_fast.publish import publish_run

    done = publish_run(config, progress)
    held = (
        f"{done.images:,} images of {done.classes:,} classes, {done.files} files, {done.bytes / 1e6:.1f} MB"
    )
    ended = f"published: {done.url}" if done.url else f"not uploaded; see {done.folder / 'README.md'}"
    return {**asdict(done), "folder": str(done.folder)}, f"{done.folder}: {held}\n{ended}"
