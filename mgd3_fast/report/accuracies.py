"""What `evaluate` and `compare` found, as the page shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgd3_fast.compare.tables import COMPARISON
from mgd3_fast.compare.tables import FORMAT as COMPARISON_FORMAT
from mgd3_fast.errors import UserError
from mgd3_fast.evaluate.evaluation import FORMAT
from mgd3_fast.evaluate.store import RESULT

_ROW = ("folder", "network", "ipc", "seeds", "best", "last")
_COMPARED = ("method", "folder", "seeds", "accuracy", "balanced", "difference", "made_s", "training_s")


def read_accuracies(paths: Sequence[Path], run: Path) -> list[dict[str, Any]]:
    """Read results; where none is named, the comparison that a run is part of, if it is.

    Args:
        paths: Files that `evaluate` and `compare` wrote, or their folders.
        run: Folder of the run that is shown.

    Returns:
        For each path "path", "complete", "majority" (None where it is not known), "uneven" (whether classes
        have different numbers of test images), "rows" of an evaluation, "tables" of a comparison.

    Raises:
        UserError: A path holds no such result.
    """
    beside = run.parent / COMPARISON
    if paths or not beside.is_file():
        return [_read(path) for path in paths]
    found = _read(beside)
    shown = {row["folder"] for table in found["tables"] for row in table["rows"]}
    return [found] if run.resolve().name in shown else []


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_file(path).read_text(encoding="utf-8"))
        kind = content["format"]
        if kind not in (FORMAT, COMPARISON_FORMAT):
            raise ValueError("which is something else")
        dataset = content.get("dataset") or {}
        rows = content["rows"] if kind == FORMAT else []
        tables = content["tables"] if kind == COMPARISON_FORMAT else []
        return {
            "path": str(path),
            "complete": content.get("complete"),
            "majority": dataset.get("majority"),
            "uneven": len(set(dataset.get("images_by_class", {}).values())) > 1,
            "rows": [_picked(row, _ROW) | {"balanced": row.get("best_balanced")} for row in rows],
            "tables": [_table(table) for table in tables],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"evaluation must be an {RESULT} of evaluate, a {COMPARISON} of compare, or their folder, got"
            f" {path}: {why}"
        ) from None


def _file(path: Path) -> Path:
    """The comparison of a folder that has one, else its evaluation."""
    if not path.is_dir():
        return path
    found = next((path / name for name in (COMPARISON, RESULT) if (path / name).exists()), None)
    if found is None:
        raise ValueError("a folder that holds neither")
    return found


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    picked = _picked(table, ("ipc", "baseline", "verdict"))
    return picked | {"rows": [_picked(row, _COMPARED) for row in table["rows"]]}


def _picked(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: found[name] for name in names}
