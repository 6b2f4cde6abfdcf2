"""Training state on disk: written whole or not at all, read without executing anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from mgd3_engine.files.renaming import renamed
from mgd3_fast.errors import UserError
from mgd3_fast.storage.tensor_files import write_pickled

FORMAT = 2


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, whole and flushed to disk or not at all.

    Args:
        path: Receives the checkpoint; an older one is replaced.
        state: Nested dicts and lists of tensors, numbers, strings and None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with renamed(path) as unfinished:
        write_pickled(unfinished, {"format": FORMAT, **state})


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint with `torch.load(weights_only=True)`.

    Args:
        path: What `save_checkpoint` wrote.

    Returns:
        The state with its tensors on the CPU, or None when there is no such file.

    Raises:
        UserError: The file is damaged, holds something else, or is of an earlier version.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        # A cut-off archive shows as any of these; a file that may not be read has raised before.
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
            state = None
    if not isinstance(state, dict) or "step" not in state:
        raise UserError(f"{path} is damaged or no training checkpoint; remove it to start again")
    if state.pop("format", None) != FORMAT:
        raise UserError(
            f"{path} was written by another version of mgd3-fast; finish that training with it, or remove the"
            " file to start again"
        )
    return state
