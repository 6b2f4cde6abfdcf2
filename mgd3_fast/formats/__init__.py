"""A distilled folder in other formats: numbered folders, tensors, Hugging Face parquet, WebDataset."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mgd3_fast.formats.config import EXPORT_FORMATS, ConvertConfig

if TYPE_CHECKING:
    from mgd3_fast.formats.converting import Conversion, convert, export_run

__all__ = ["EXPORT_FORMATS", "Conversion", "ConvertConfig", "convert", "export_run"]


def __getattr__(name: str) -> Any:
    # Converting reads images, the configuration does not: the command line's help comes without them.
    if name in ("Conversion", "convert", "export_run"):
        return getattr(import_module("mgd3_fast.formats.converting"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
