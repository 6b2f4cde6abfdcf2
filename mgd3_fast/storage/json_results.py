"""What commands find, as JSON files that are complete or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgd3_engine.files.renaming import renamed


def write_json(path: Path, content: Mapping[str, Any], *, indent: int = 1, shared: bool = False) -> None:
    """Write a JSON file, whole or not at all; an older one is replaced when the new one is complete.

    Args:
        path: The file; its folder is made.
        content: JSON values.
        indent: Blanks for each level.
        shared: Whether several processes may write it at once; see `renamed`.

    Raises:
        OSError: It cannot be written; the old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with renamed(path, shared=shared) as unfinished:
        unfinished.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def result_file(out: Path | str, name: str) -> Path:
    """The file that a result is written to: one that is named by its `.json`, or `name` in a folder."""
    out = Path(out)
    return out if out.suffix.lower() == ".json" and not out.is_dir() else out / name
