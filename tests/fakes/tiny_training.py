"""A folder of small images and a training on it that takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mgd3_fast.config.train import TrainConfig


def write_images(root: Path, *, count: int = 6, size: tuple[int, int] = (20, 16)) -> Path:
    """Three classes of images, each class of its own colour."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
            pixels[..., label] += 150
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def tiny_config(dataset: Path | str, out: Path, /, **changes: object) -> TrainConfig:
    """Train both parts for a few steps at 16 pixels, with latents in a cache beside `out`."""
    settings: dict[str, object] = {
        "dataset": str(dataset),
        "out": out,
        "cache_dir": out.parent / "cache",
        "resolution": 16,
        "vae_channels": (8, 16),
        "vae_layers": 1,
        "vae_attention": "none",
        "vae_steps": 4,
        "vae_batch_size": 5,
        "hidden": 16,
        "depth": 1,
        "heads": 2,
        "patch": 2,
        "steps": 7,
        "batch_size": 4,
        "lr": 1e-2,
        "ema": 0.5,
        "checkpoint_every": 3,
        "device": "cpu",
        "sample_sheets": 0,
        "judge": "off",
    }
    return TrainConfig(**{**settings, **changes})
