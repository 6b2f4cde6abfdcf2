"""What a labelled set of images is like, and what spoils a run with it, before the run."""

from mgd3_fast.check.checking import RESULT, Checked, check_dataset
from mgd3_fast.check.finding import SEVERITIES, Finding
from mgd3_fast.check.glance import glance

__all__ = ["RESULT", "SEVERITIES", "Checked", "Finding", "check_dataset", "glance"]
