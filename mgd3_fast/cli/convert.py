"""`mgd3-fast convert`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.convert import ConvertConfig
from mgd3_fast.progress import Progress

CONFIG = ConvertConfig
EXAMPLES = {
    "mgd3-fast convert distilled tensors --format tensor": "one file of pixels and labels for PyTorch",
    "mgd3-fast convert distilled shards --format webdataset": "tar shards",
}


def run(config: ConvertConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Convert a folder of images."""
    with loading():
        from mgd3_fast.formats import convert

    done = convert(config, progress)
    found = f"{done.images:,} images of {done.classes:,} classes as {done.format} in {done.folder}"
    how = f"{done.bytes / 2**20:.1f} MiB, {done.seconds:.1f} s" if done.made else "nothing was left to do"
    return {**asdict(done), "folder": str(done.folder)}, f"{found} ({how})"
