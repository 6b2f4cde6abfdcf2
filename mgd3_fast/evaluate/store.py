"""Finished trainings and the state of unfinished ones, found again by what decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mgd3_fast.storage.json_results import write_json
from mgd3_fast.storage.tensor_files import remove_leftovers, save_tensors
from mgd3_fast.writers import unwritable_error

RESULT = "evaluation.json"
_FORMAT = "mgd3-fast training 1"


def training_key(identity: Mapping[str, Any]) -> str:
    """Hex sha256 of all that decides the outcome of a training."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class TrainingStore:
    """A folder of results, which several evaluations and processes may share; made if missing.

    `trainings/` holds one small file for each finished training.

    Raises:
        UserError: It is a file, or cannot be written.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.trainings = out / "trainings"
        self.weights = out / "weights"
        try:
            self.trainings.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable_error(out, error) from None

    def finished(self, key: str) -> dict[str, Any] | None:
        """The outcome of a training, or None; a damaged file counts as none."""
        try:
            record = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("format") != _FORMAT or record.get("key") != key:
            return None
        outcome: dict[str, Any] = record["outcome"]
        return outcome

    def put(self, key: str, identity: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        """Keep the outcome of a training and drop its unfinished state."""
        record = {"format": _FORMAT, "key": key, "identity": identity, "outcome": outcome}
        write_json(self._path(key), record, shared=True)
        self.checkpoint(key).unlink(missing_ok=True)

    def checkpoint(self, key: str) -> Path:
        """Where the state of an unfinished training lies."""
        return self.trainings / f"{key[:20]}.pt"

    def weights_file(self, key: str, name: str) -> Path:
        """Where the weights of a training lie, if they are kept."""
        return self.weights / f"{name}-{key[:12]}.safetensors"

    def put_weights(self, file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Keep a network's weights as safetensors."""
        self.weights.mkdir(exist_ok=True)
        remove_leftovers(self.weights)
        save_tensors(file, {name: tensor.cpu() for name, tensor in state.items()}, metadata)

    def _path(self, key: str) -> Path:
        return self.trainings / f"{key[:20]}.json"
