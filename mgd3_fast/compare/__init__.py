"""Is distilling worth it? MGD3 beside the generator alone and real images, at one size and protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.compare import CompareConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.compare.comparing import compare_methods

__all__ = ["CompareConfig", "compare_methods"]

__getattr__ = loaded_on_first_use(__name__, compare_methods="mgd3_fast.compare.comparing")
