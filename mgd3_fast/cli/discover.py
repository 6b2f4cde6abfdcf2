"""`mgd3-fast discover`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config import DiscoverAndPlotConfig
from mgd3_fast.progress import Progress

CONFIG = DiscoverAndPlotConfig
FLAGS = {"discovery": ("--discovery", "--method")}  # the second is its older name
EXAMPLES = {
    "mgd3-fast discover --dataset mnist5k --ipc 10 --out modes.safetensors": "a file for distill's --modes",
    "mgd3-fast discover --dataset mnist5k --ipc 10 --discovery gmm --out modes --plot": (
        "modes of another kind, and pictures of them"
    ),
}


def run(config: DiscoverAndPlotConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Find modes, and draw them if asked to."""
    with loading():
        from mgd3_fast.run.discovery import discover, discover_and_plot

    pictures: list[Path] = []
    if config.plot is None:
        path, modes = discover(config, progress)
    else:
        path, modes, pictures = discover_and_plot(config, progress)
    result = {
        "file": str(path),
        "classes": len(modes.class_names),
        "ipc": modes.ipc,
        "method": modes.method,
        "kmeans": modes.kmeans,
        "seed": modes.seed,
        "key": modes.key,
        "pictures": [str(picture) for picture in pictures],
    }
    drawn = f"\n{len(pictures):,} pictures in {pictures[0].parent}" if pictures else ""
    return result, f"{modes.ipc:,} modes for each of {len(modes.class_names):,} classes in {path}{drawn}"
