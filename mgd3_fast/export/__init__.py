"""A generator's network for other runtimes than torch: an ONNX graph, or a TensorRT engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mgd3_fast.export.config import ExportConfig

if TYPE_CHECKING:
    from mgd3_fast.export.exporting import Exported, export

__all__ = ["ExportConfig", "Exported", "export"]


def __getattr__(name: str) -> Any:
    # Exporting needs torch, the configuration does not: the command line's help comes without it.
    if name in ("Exported", "export"):
        from mgd3_fast.export import exporting

        return getattr(exporting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
