"""`mgd3-fast export`."""

from __future__ import annotations

from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.export import ExportConfig
from mgd3_fast.progress import Progress

CONFIG = ExportConfig
EXAMPLES = {
    "mgd3-fast export --generator dit-xl-2-256 --out dit.onnx": "a graph for any runtime",
    "mgd3-fast export --generator dit-xl-2-256 --format tensorrt --precision bf16": "an engine for this GPU",
}


def run(config: ExportConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Write a graph or an engine."""
    with loading():
        from mgd3_fast.export import export_network

    exported = export_network(config, progress)
    first, *others = exported.files
    result = {
        "file": str(first),
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
    beside = f", with {', '.join(file.name for file in others)} beside it" if others else ""
    return result, (
        f"{exported.format} {exported.precision}: {first}{beside}\n"
        f"{exported.bytes / 2**20:.1f} MiB {'were there' if exported.reused else 'written'},"
        f" {exported.seconds:.1f} s"
    )
