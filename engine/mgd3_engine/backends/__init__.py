"""What runs the network: named backends, each of which turns a denoiser into a faster one."""

from __future__ import annotations

from mgd3_engine.backends.denoiser import BackendRequest, Denoiser, HoistedDenoiser, PatchDenoiser
from mgd3_engine.backends.registry import backend_names, create_backend

__all__ = [
    "BackendRequest",
    "Denoiser",
    "HoistedDenoiser",
    "PatchDenoiser",
    "backend_names",
    "create_backend",
]
