"""The diffusion transformer DiT (Peebles & Xie 2023): network, published sizes, checkpoint layouts."""

from __future__ import annotations

from mgd3_engine.dit.checkpoints import DiTCheckpoint, load_dit, read_dit, save_dit
from mgd3_engine.dit.config import DiTConfig
from mgd3_engine.dit.float8 import float8_linears
from mgd3_engine.dit.model import DiT
from mgd3_engine.dit.presets import PRESET_NAMES, dit_config
from mgd3_kernels import FLOAT8_CAPABILITY

__all__ = [
    "FLOAT8_CAPABILITY",
    "PRESET_NAMES",
    "DiT",
    "DiTCheckpoint",
    "DiTConfig",
    "dit_config",
    "float8_linears",
    "load_dit",
    "read_dit",
    "save_dit",
]
