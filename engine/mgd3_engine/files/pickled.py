"""PyTorch's own checkpoint format, read without running code from it."""

from __future__ import annotations

from pathlib import Path

import torch

STAND_INS = (
    "argparse.Namespace",  # DiT's training script stores its options beside the weights
    # a key of the training states that PyTorch Lightning wrote before 1.5
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
"""Classes that published checkpoints hold beside their weights: none of them is imported or made."""


class _StandIn:
    """Takes the place of a class that a checkpoint names."""


def read_pickled(path: Path) -> object:
    """Read a checkpoint; its tensors are mapped from it, but for files from before PyTorch 1.6.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        ValueError: The file is damaged, or holds anything but tensors, plain Python values and `STAND_INS`.
    """
    # The unpickler looks these names up and imports nothing.
    with torch.serialization.safe_globals([(_StandIn, name) for name in STAND_INS]):
        try:
            return _load(path)
        except Exception as error:  # a damaged byte makes the unpickler raise almost anything
            reason = " ".join(str(error).split())
            if "Unsupported global" in reason or "Unsupported class" in reason:
                culprit = reason.split("GLOBAL ")[-1].split(" was not")[0]
                raise ValueError(
                    f"{path} must hold only tensors and plain values, got the object {culprit}"
                ) from None
            raise ValueError(
                f"{path} must be a PyTorch checkpoint, got a damaged or foreign file ({reason[:120]})"
            ) from None


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)
