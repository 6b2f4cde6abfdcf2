"""`training.json`: what a folder was trained with, so that another run does not go on from it by mistake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mgd3_engine.files.renaming import renamed
from mgd3_fast.errors import UserError
from mgd3_fast.versions import versions

LOG_NAME = "training.json"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class FitLog:
    """What is kept of a training.

    Args:
        curve: One dict per window of steps: "step", the last step of it (from 1), and the mean of each loss.
        wall_s: Seconds of all sessions, without those lost to a kill.
    """

    curve: list[dict[str, float]]
    wall_s: float


class TrainingLog:
    """Settings, loss curve and result of each part trained in a folder.

    Args:
        out: The generator folder; made with the first entry if it does not exist.

    Raises:
        UserError: `out` is a file, or holds something that `train` did not write.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / LOG_NAME
        if out.exists() and not out.is_dir():
            raise UserError(f"out must be a folder, got the file {out}")
        self._parts: dict[str, Any] = {}
        if self.path.exists():
            self._parts = self._read()
        elif out.exists() and any(out.iterdir()):
            raise UserError(f"out must be new, empty or a folder of an earlier training run, got {out}")

    def _read(self) -> dict[str, Any]:
        try:
            parts = json.loads(self.path.read_text())["parts"]
            return {name: dict(part) for name, part in parts.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path} must be a training log, got something else; remove it") from None

    def begin(self, part: str, identity: Mapping[str, Any]) -> None:
        """Record the settings that decide the weights of a part, or check that they are what was recorded.

        Raises:
            UserError: The folder's part was trained with other settings.
        """
        recorded = self._parts.setdefault(part, {"settings": dict(identity)})["settings"]
        recorded.update({name: value for name, value in identity.items() if name not in recorded})
        differing = [name for name, value in identity.items() if recorded[name] != value]
        if differing:
            name = differing[0]
            raise UserError(
                f"{name} must be {recorded[name]!r} to go on with the training of {part} in"
                f" {self.path.parent}, got {identity[name]!r}; choose another folder for another run"
            )
        self._write()

    def finish(self, part: str, log: FitLog, **result: Any) -> None:
        """Record loss curve, seconds and further results of a finished part."""
        self._parts[part] |= {**asdict(log), "versions": versions(), **result}
        self._write()

    def finished(self, part: str) -> dict[str, Any] | None:
        """What `finish` recorded of a part, or None."""
        recorded: dict[str, Any] = self._parts.get(part, {})
        return recorded if "curve" in recorded else None

    def summary(self, part: str) -> dict[str, Any]:
        """What a finished part came to: steps, losses of the last window, seconds."""
        recorded = self._parts[part]
        last = recorded["curve"][-1]
        return {
            "steps": last["step"],
            "final": {name: value for name, value in last.items() if name != "step"},
            "wall_s": round(recorded["wall_s"], 1),
        }

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with renamed(self.path) as unfinished:
            unfinished.write_text(json.dumps({"parts": self._parts}, indent=1) + "\n")
