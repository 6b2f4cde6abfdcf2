"""The diffusion transformer DiT (Peebles & Xie 2023): network, published sizes, checkpoint layouts."""

from __future__ import annotations

from mgd3_engine.dit.config import DiTConfig
from mgd3_engine.dit.model import DiT

__all__ = ["DiT", "DiTConfig"]
