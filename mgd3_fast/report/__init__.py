"""One self-contained page about a distilled folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mgd3_fast.report.config import ReportConfig

if TYPE_CHECKING:
    from mgd3_fast.report.page import write_report

__all__ = ["ReportConfig", "write_report"]


def __getattr__(name: str) -> Any:
    # `write_report` needs torch, the configuration does not: the command line's help comes without it.
    if name == "write_report":
        from mgd3_fast.report.page import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
