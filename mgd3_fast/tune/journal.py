"""What a tuning has decided and measured, kept so that the same command goes on."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mgd3_engine.files.json_file import read_json
from mgd3_fast.config import SamplingDefaults
from mgd3_fast.config.tune import TuneConfig
from mgd3_fast.errors import UserError
from mgd3_fast.storage.json_results import write_json
from mgd3_fast.tune.halving import Round
from mgd3_fast.writers import MODES

JOURNAL, SETS = "journal.json", "sets"
_DECIDING = ("generator", "dataset", "classes", "ipc", "seed", "epochs", "background", "fit", "precision")


@dataclass
class Journal:
    """The journal in a folder of results; sets and trainings keep themselves.

    Args:
        path: Its file.
        asked: Options that decide the outcome.
        defaults: Of the generator when the tuning began; what was chosen then may be in its place by now.
        rounds: The plan, empty before units are timed.
        network: The classifier, empty before units are timed.
        spent_s: Seconds of work, all calls together.
        recovery: Mode recovery by set.
        failed: Why a candidate's images could not be made, by candidate.
    """

    path: Path
    asked: dict[str, Any]
    defaults: SamplingDefaults
    rounds: tuple[Round, ...] = ()
    network: str = ""
    spent_s: float = 0.0
    recovery: dict[str, float | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def save(self) -> None:
        """Write it, whole or not at all."""
        content = {key: value for key, value in asdict(self).items() if key != "path"}
        write_json(self.path, content)


def open_journal(config: TuneConfig, defaults: SamplingDefaults) -> Journal:
    """Take up the journal of `config.out`, or begin one.

    A folder in which no plan was made yet does not bind: the command may have been mended.

    Raises:
        UserError: The folder holds the tuning of something else, or another journal.
    """
    path = Path(config.out) / JOURNAL
    asked = {name: getattr(config, name) for name in _DECIDING}
    if not path.exists():
        return Journal(path, asked, defaults)
    kept = read_json(path)
    if not isinstance(kept, dict) or kept.keys() != {one.name for one in fields(Journal)} - {"path"}:
        raise UserError(f"{path} must be the journal of a tuning: choose another --out")
    differing = [name for name in asked if kept["asked"].get(name) != asked[name]]
    if differing and not kept["rounds"]:
        shutil.rmtree(path.parent / SETS, ignore_errors=True)
        for file in (path, path.parent / MODES):
            file.unlink(missing_ok=True)
        return Journal(path, asked, defaults)
    if differing:
        name = differing[0]
        raise UserError(
            f"--out {config.out} holds a tuning with another --{name} ({kept['asked'].get(name)}, not"
            f" {asked[name]}): choose another --out"
        )
    kept["defaults"] = SamplingDefaults(**kept["defaults"])
    kept["rounds"] = tuple(Round(**one) for one in kept["rounds"])
    return Journal(path, **kept)
