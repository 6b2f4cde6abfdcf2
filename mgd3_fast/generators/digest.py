"""One sha256 for a network, whatever file its weights came in: the engine's, under the name used here."""

from __future__ import annotations

from mgd3_engine.files.digest import weights_digest

__all__ = ["weights_digest"]
