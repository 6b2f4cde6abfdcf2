"""Where latents and indexes are kept between runs."""

from __future__ import annotations

from pathlib import Path

from mgd3_engine.cache import default_cache_dir

__all__ = ["cache_dir_or_default", "default_cache_dir"]


def cache_dir_or_default(cache_dir: Path | str | None) -> Path:
    """The folder that was named, or `default_cache_dir()`."""
    return default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
