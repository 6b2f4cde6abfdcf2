"""A distilled folder in other formats: numbered folders, tensors, Hugging Face parquet, WebDataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.convert import CONVERTED_FORMATS, ConvertConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.formats.converting import Conversion, convert, convert_run

__all__ = ["CONVERTED_FORMATS", "Conversion", "ConvertConfig", "convert", "convert_run"]

__getattr__ = loaded_on_first_use(
    __name__,
    Conversion="mgd3_fast.formats.converting",
    convert="mgd3_fast.formats.converting",
    convert_run="mgd3_fast.formats.converting",
)
