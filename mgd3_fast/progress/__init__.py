"""What is shown while something takes long: bars, lines and notes."""

from mgd3_fast.progress.bars import Bar, duration
from mgd3_fast.progress.reporting import SILENT, Progress

__all__ = ["SILENT", "Bar", "Progress", "duration"]
