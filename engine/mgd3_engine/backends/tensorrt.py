"""The network as a TensorRT engine, found where it was kept or built for this GPU on first use."""

from __future__ import annotations

import logging

import torch

from mgd3_engine.backends.request import BackendRequest
from mgd3_engine.denoiser import Denoiser
from mgd3_engine.export import identify, require_dit
from mgd3_engine.files.keeping import kept_in
from mgd3_engine.tensorrt.building import RowRange, capability_of
from mgd3_engine.tensorrt.engine_cache import cached_engine, engine_folder, find_engine
from mgd3_engine.tensorrt.engine_file import EngineTarget
from mgd3_engine.tensorrt.execution import CudaStreams, LoadedEngine, TensorRTDenoiser
from mgd3_engine.tensorrt.flavour import installed_flavour

_log = logging.getLogger(__name__)


def create(request: BackendRequest) -> Denoiser:
    """Load the network's engine; where none was kept for this GPU and these rows, build it first.

    Args:
        request: The network, a `mgd3_engine.dit.DiT`, and how it will be called.

    Returns:
        The denoiser, for up to `request.rows` rows.

    Raises:
        ValueError: The device is no GPU, TensorRT is missing or does not know the GPU, the network is no DiT,
            or the engine cannot be built.
    """
    device = request.device
    if device.type != "cuda":
        raise ValueError(
            f"backend tensorrt needs a CUDA device, got {device.type}; for another machine,"
            " export an engine ahead of time"
        )
    dit = require_dit(request.denoiser, request.dtype, "backend tensorrt")
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    capability = capability_of(device)
    flavour = installed_flavour(capability)
    identity = identify(dit)
    target = EngineTarget(
        flavour=flavour.name,
        version=flavour.version,
        weights=identity.digest,
        precision=identity.precision,
        rows=request.rows,
        capability=capability,
        gpu=torch.cuda.get_device_name(device),
    )
    with kept_in(request.cache_dir) as folder:
        found = find_engine(target, engine_folder(folder))
        if found is None:
            rows = RowRange(1, request.rows, request.rows)
            _log.warning("building an engine, once for this network, GPU and batch size: %s rows", rows)
            with torch.cuda.device(device):
                found = cached_engine(dit, flavour, rows, cache_dir=folder, identity=identity)
        serialised = found.read(target)
    engine = LoadedEngine(flavour, serialised, device)
    return TensorRTDenoiser(engine, identity, device, CudaStreams(device))
