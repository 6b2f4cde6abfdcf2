"""How diverse and how representative a distilled folder is, beside the images it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.metrics import MetricsConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.metrics.measuring import measure

__all__ = ["MetricsConfig", "measure"]

__getattr__ = loaded_on_first_use(__name__, measure="mgd3_fast.metrics.measuring")
