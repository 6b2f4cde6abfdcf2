"""A DiT as a TensorRT engine: built, kept with a description of what it fits, and run on torch's memory."""

from __future__ import annotations

from mgd3_engine.tensorrt.building import RowRange, check_capabilities, export_engine
from mgd3_engine.tensorrt.engine_cache import cached_engine, engine_folder, engine_path, find_engine
from mgd3_engine.tensorrt.engine_file import EngineDescription, EngineFile, EngineTarget
from mgd3_engine.tensorrt.flavour import FLAVOURS, Flavour, installed_flavour, load_flavour

__all__ = [
    "FLAVOURS",
    "EngineDescription",
    "EngineFile",
    "EngineTarget",
    "Flavour",
    "RowRange",
    "cached_engine",
    "check_capabilities",
    "engine_folder",
    "engine_path",
    "export_engine",
    "find_engine",
    "installed_flavour",
    "load_flavour",
]
