"""Distilled sets without a generator: real images, chosen in ways that a method has to beat."""

from mgd3_fast.baselines.making import make_baseline
from mgd3_fast.baselines.selection import Selection, select_images

__all__ = ["Selection", "make_baseline", "select_images"]
