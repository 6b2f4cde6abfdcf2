"""What a backend is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mgd3_engine.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class BackendRequest:
    """A network and how it will be called.

    Args:
        denoiser: The network.
        device: Where it runs.
        dtype: Of its input x: float32, bfloat16 or float16.
        rows: R, the most rows of a call; all calls have them unless the sampler has several batch shapes.
        cache_dir: Folder that keeps what a backend exports or builds; None keeps nothing.
    """

    denoiser: Denoiser
    device: torch.device
    dtype: torch.dtype
    rows: int
    cache_dir: Path | None = None
