"""One self-contained page about a distilled folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.report import ReportConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.report.page import write_report

__all__ = ["ReportConfig", "write_report"]

__getattr__ = loaded_on_first_use(__name__, write_report="mgd3_fast.report.page")
