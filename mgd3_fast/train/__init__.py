"""Fitting a generator to a dataset: the autoencoder, the DiT, or both."""

from __future__ import annotations

from mgd3_fast.train.config import TrainConfig
from mgd3_fast.train.training import train

__all__ = ["TrainConfig", "train"]
