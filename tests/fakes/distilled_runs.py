"""Small finished runs that several tests convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.tiny_generator import make_tiny_generator
from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets import imagenet_classes
from mgd3_fast.run.distillation import distill
from tests.fakes.pictures import photo

WOOF = imagenet_classes("imagewoof")  # not in sorted order, which is why it is used here


def woof_config(folder: Path, **changes: Any) -> DistillConfig:
    """A run of ImageWoof's ten classes, two images each, by a random generator over made-up pictures."""
    tree = folder / "ilsvrc"
    if not tree.exists():
        for label, name in enumerate(WOOF):
            (tree / "train" / name).mkdir(parents=True)
            for number in range(3):
                photo(1000 * label + number).save(tree / f"train/{name}/{number}.png")
        make_tiny_generator(folder / "generator", 10)
    settings: dict[str, Any] = {
        "dataset": "imagewoof",
        "data_dir": tree,
        "generator": str(folder / "generator"),
        "ipc": 2,
        "cache_dir": folder / "cache",
        "out": folder / "run",
    }
    return DistillConfig(**{**settings, **changes})


def woof_run(folder: Path) -> Path:
    """Distil it, and return the output folder."""
    return distill(woof_config(folder)).folder
