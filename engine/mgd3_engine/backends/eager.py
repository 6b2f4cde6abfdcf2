"""The network as it is."""

from __future__ import annotations

from mgd3_engine.backends.request import BackendRequest
from mgd3_engine.denoiser import Denoiser


def create(request: BackendRequest) -> Denoiser:
    """Return the denoiser itself."""
    return request.denoiser
