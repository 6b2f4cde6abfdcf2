"""Where what is made once and used by every later run is kept."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """$MGD3_CACHE, or ~/.cache/mgd3-fast."""
    named = os.environ.get("MGD3_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "mgd3-fast"


def cache_dir_or_default(cache_dir: Path | str | None) -> Path:
    """The folder that was named, or `default_cache_dir()`."""
    return default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
