"""How diverse and how representative a distilled folder is, beside the images it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mgd3_fast.metrics.config import MetricsConfig

if TYPE_CHECKING:
    from mgd3_fast.metrics.measuring import measure

__all__ = ["MetricsConfig", "measure"]


def __getattr__(name: str) -> Any:
    # `measure` needs torch, the configuration does not: the command line's help comes without it.
    if name == "measure":
        from mgd3_fast.metrics.measuring import measure

        return measure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
