"""`training.json`: what a folder was trained with, so that another run does not go on from it by mistake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError
from mgd3_fast.generators.folder import TRAINING
from mgd3_fast.storage.json_results import write_json
from mgd3_fast.versions import versions
from mgd3_fast.writers import check_own, check_writable

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class FitLog:
    """What is kept of a training.

    Args:
        curve: One dict per window of steps: "step", the last step of it (from 1), and the mean of each loss.
        wall_s: Seconds of all sessions, without those lost to a kill.
        held_out: Steps done, and the loss of images that are not trained on; empty where there are none.
    """

    curve: list[dict[str, float]]
    wall_s: float
    held_out: list[dict[str, float]]


class TrainingLog:
    """Settings, loss curve and result of each part trained in a folder.

    Args:
        out: The generator folder; made with the first entry if it does not exist.

    Raises:
        UserError: `out` is a file, or holds something that `train` did not write.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / TRAINING
        if out.exists() and not out.is_dir():
            raise UserError(f"out must be a folder, got the file {out}")
        self._parts: dict[str, Any] = {}
        self._kept: set[str] = set()
        if self.path.exists():
            self._parts = self._read()
        check_own(out, "training run", TRAINING)
        check_writable(out)

    def _read(self) -> dict[str, Any]:
        try:
            parts = {name: dict(part) for name, part in json.loads(self.path.read_text())["parts"].items()}
            for part in parts.values():
                if part["settings"].get("resolution", 0) is None:  # as an earlier version left it
                    del part["settings"]["resolution"]
            return parts
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path} must be a training log, got something else; remove it") from None

    def begin(self, part: str, identity: Mapping[str, Any]) -> None:
        """Take the settings that decide a part's weights, or check that they are those it was begun with.

        Nothing is written before `keep`, and a part of which nothing is worth keeping does not bind: its
        settings may be others, and its checkpoint, if it diverged, then goes.

        Raises:
            UserError: The folder's part was trained with other settings.
        """
        recorded = self._parts.get(part, {})
        known = recorded.get("settings", {})
        differing = [name for name, value in identity.items() if known.get(name, value) != value]
        if differing and self.is_held(part):
            name = differing[0]
            raise UserError(
                f"{name} must be {known[name]!r} to go on with the training of {part} in"
                f" {self.path.parent}, got {identity[name]!r}; choose another folder for another run"
            )
        if differing:
            self._checkpoint(part).unlink(missing_ok=True)
            recorded = known = {}
        self._parts[part] = {**recorded, "settings": {**known, **identity}}

    def plan(self, part: str, steps: int) -> None:
        """Take the number of steps that a part is to have, after those that it was to have before."""
        entry = self._parts.setdefault(part, {})
        entry["planned"] = [*(total for total in entry.get("planned", []) if total != steps), steps]

    def keep(self, part: str) -> None:
        """Write down what a part was begun with, now that a step of it is done."""
        if part not in self._kept:
            self._kept.add(part)
            self._write()

    def diverged(self, part: str, step: int) -> None:
        """Note that a part came to nothing, so that other settings may take its place."""
        self._parts[part]["diverged"] = step
        if self._checkpoint(part).exists():
            self._write()

    def is_held(self, part: str) -> bool:
        """Whether there is something of a part to go on from."""
        recorded = self._parts.get(part, {})
        begun = "curve" in recorded or ("settings" in recorded and self._checkpoint(part).exists())
        return begun and "diverged" not in recorded

    def begun_with(self, part: str) -> dict[str, Any]:
        """The settings of a part, or of "both", that is held, and its steps; nothing of any other."""
        found: dict[str, Any] = {}
        for one, steps in (("vae", "vae_steps"), ("dit", "steps")):
            if part in (one, "both") and self.is_held(one):
                recorded = self._parts[one]
                planned = recorded.get("planned") or [point["step"] for point in recorded.get("curve", [])]
                found |= {**recorded["settings"], **({steps: planned[-1]} if planned else {})}
        return found

    def has_other_length(self, part: str) -> bool:
        """Whether a part was begun with another number of steps than it has now."""
        return len(self._parts.get(part, {}).get("planned", [])) > 1

    def finish(self, part: str, log: FitLog, **result: Any) -> None:
        """Record loss curve, seconds and further results of a finished part."""
        self._parts[part] |= {**asdict(log), "versions": versions(), **result}
        self._parts[part].pop("diverged", None)
        self._write()

    def finished(self, part: str) -> dict[str, Any] | None:
        """What `finish` recorded of a part, or None."""
        recorded: dict[str, Any] = self._parts.get(part, {})
        return recorded if "curve" in recorded else None

    def summary(self, part: str) -> dict[str, Any]:
        """What a finished part came to: steps, losses of the last window, seconds."""
        recorded = self._parts[part]
        last = recorded["curve"][-1]
        lengths = {"planned": recorded["planned"]} if self.has_other_length(part) else {}
        return {
            "steps": last["step"],
            **lengths,
            "final": {name: value for name, value in last.items() if name != "step"},
            **({"held_out": recorded["held_out"][-1]["loss"]} if recorded.get("held_out") else {}),
            "wall_s": round(recorded["wall_s"], 1),
        }

    def _checkpoint(self, part: str) -> Path:
        return self.path.parent / CHECKPOINTS / f"{part}.pt"

    def _write(self) -> None:
        write_json(self.path, {"parts": self._parts})
