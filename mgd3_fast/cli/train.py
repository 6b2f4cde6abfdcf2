"""`mgd3-fast train`."""

from __future__ import annotations

from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.train import TrainConfig
from mgd3_fast.progress import Progress

CONFIG = TrainConfig


def run(config: TrainConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Fit a generator."""
    with loading():
        from mgd3_fast.train import train

    folder = train(config, progress)
    return {"folder": str(folder)}, (
        f"generator folder: {folder}\nuse it with: mgd3-fast distill --generator {folder} ..."
    )
