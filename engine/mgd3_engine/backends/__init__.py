"""What runs the network: named backends, each of which turns a denoiser into a faster one."""

from __future__ import annotations

from mgd3_engine.backends.registry import backend_names, create_backend
from mgd3_engine.backends.request import BackendRequest
from mgd3_engine.denoiser import Denoiser, HoistedDenoiser, PatchDenoiser

__all__ = [
    "BackendRequest",
    "Denoiser",
    "HoistedDenoiser",
    "PatchDenoiser",
    "backend_names",
    "create_backend",
]
