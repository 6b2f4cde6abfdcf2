"""Fitting a generator to a dataset: the autoencoder, the DiT, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.train import TrainConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.train.training import train_generator

__all__ = ["TrainConfig", "train_generator"]

__getattr__ = loaded_on_first_use(__name__, train_generator="mgd3_fast.train.training")
