"""The network as it is."""

from __future__ import annotations

from mgd3_engine.backends.denoiser import BackendRequest, Denoiser


def create(request: BackendRequest) -> Denoiser:
    """Return the denoiser itself."""
    return request.denoiser
