"""Where what is made once and used by every later run is kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mgd3_fast.errors import UserError
from mgd3_fast.storage.remote import is_url


def default_cache_dir() -> Path:
    """$MGD3_CACHE, or ~/.cache/mgd3-fast; without a home, mgd3-fast-USERID in the temporary folder.

    A URL names no folder of this machine: see `cache_url`.
    """
    named = os.environ.get("MGD3_CACHE")
    if named and not is_url(named):
        return expanded(named)
    try:
        return Path.home() / ".cache" / "mgd3-fast"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"mgd3-fast-{os.getuid()}"


def cache_dir_or_default(cache_dir: Path | str | None) -> Path:
    """The folder that was named, or `default_cache_dir()`."""
    return default_cache_dir() if cache_dir is None or is_url(cache_dir) else expanded(cache_dir)


def cache_url(cache_dir: Path | str | None) -> str | None:
    """Where machines share what this one's cache keeps, if a URL was named; $MGD3_CACHE by default."""
    named = os.environ.get("MGD3_CACHE") if cache_dir is None else cache_dir
    return str(named).rstrip("/") if is_url(named) else None


def expanded(path: Path | str) -> Path:
    """A path without `~`.

    Raises:
        UserError: It starts with the home folder of a user who has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} starts with a home folder that is not known: write the whole path") from None
