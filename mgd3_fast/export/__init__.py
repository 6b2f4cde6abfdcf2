"""A generator's network for other runtimes than torch: an ONNX graph, or a TensorRT engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.export import ExportConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.export.exporting import Exported, export_network

__all__ = ["ExportConfig", "Exported", "export_network"]

__getattr__ = loaded_on_first_use(
    __name__, Exported="mgd3_fast.export.exporting", export_network="mgd3_fast.export.exporting"
)
