"""Fitting a generator to a dataset: the autoencoder, the DiT, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mgd3_fast.train.config import TrainConfig

if TYPE_CHECKING:
    from mgd3_fast.train.training import train

__all__ = ["TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    # `train` needs torch, the configuration does not: the command line's help comes without it.
    if name == "train":
        from mgd3_fast.train.training import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
