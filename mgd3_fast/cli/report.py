"""`mgd3-fast report`."""

from __future__ import annotations

from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.report import ReportConfig
from mgd3_fast.progress import Progress

CONFIG = ReportConfig
EXAMPLES = {
    "mgd3-fast report distilled": "distilled/report.html, with everything in it",
}


def run(config: ReportConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Write the page."""
    with loading():
        from mgd3_fast.report import write_report

    page = write_report(config, progress)
    size = page.stat().st_size
    return {"file": str(page), "bytes": size}, f"{page}, {size / 1e6:.1f} MB: open it in a browser"
