"""A finished run as a dataset of the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.publish import PublishConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.publish.publishing import Published, publish_run

__all__ = ["PublishConfig", "Published", "publish_run"]

__getattr__ = loaded_on_first_use(
    __name__,
    Published="mgd3_fast.publish.publishing",
    publish_run="mgd3_fast.publish.publishing",
)
