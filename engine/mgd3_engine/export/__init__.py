"""A DiT as an ONNX graph: what other runtimes than torch take it from."""

from __future__ import annotations

from mgd3_engine.export.identity import PRECISIONS, NetworkIdentity, identify, require_dit
from mgd3_engine.export.onnx_graph import cached_onnx, export_onnx, graph_path

__all__ = [
    "PRECISIONS",
    "NetworkIdentity",
    "cached_onnx",
    "export_onnx",
    "graph_path",
    "identify",
    "require_dit",
]
