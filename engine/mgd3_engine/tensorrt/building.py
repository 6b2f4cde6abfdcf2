"""From a network to a TensorRT engine: parse its graph, state the rows it will be called with, build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mgd3_engine.dit import DiT
from mgd3_engine.export import NetworkIdentity, cached_onnx, identify
from mgd3_engine.files.keeping import kept_in
from mgd3_engine.tensorrt.engine_file import EngineDescription, write_engine
from mgd3_engine.tensorrt.flavour import Flavour


@dataclass(frozen=True)
class RowRange:
    """How many rows an engine can be called with: twice the images of a batch with guidance.

    Args:
        least: The fewest.
        best: What it is tuned for.
        most: The most.

    Raises:
        ValueError: Not 1 <= least <= best <= most.
    """

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise ValueError(f"rows must be MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, got {self}")

    def __str__(self) -> str:
        return f"{self.least}:{self.best}:{self.most}"


def export_engine(
    dit: DiT,
    path: Path,
    flavour: Flavour,
    rows: RowRange,
    *,
    capabilities: Sequence[str] = (),
    cache_dir: Path | None = None,
    identity: NetworkIdentity | None = None,
) -> EngineDescription:
    """Build a network's engine and write it beside its description.

    Args:
        dit: The network; its number format is the engine's.
        path: The engine; the description is the file of the same name with `.json` after it. Each appears,
            or replaces an older one, only when complete.
        flavour: What builds it.
        rows: What it will be called with.
        capabilities: With TensorRT-RTX, the compute capabilities of the GPUs it is for, such as "8.6";
            none is this machine's.
        cache_dir: Keeps the graph; None does not.
        identity: Of the network, where it is known already.

    Returns:
        The description.

    Raises:
        ValueError: Neither a GPU is here nor a capability given, one is unknown, or the build fails.
        OSError: The folder cannot be written.
    """
    check_capabilities(flavour, capabilities)
    identity = identity or identify(dit)
    targets = tuple(capabilities) or (capability_of(torch.device("cuda")),)
    with kept_in(cache_dir) as folder:
        graph = cached_onnx(dit, folder, identity=identity)
        engine = build_engine(flavour, graph, rows, targets if flavour.builds_ahead else ())
    return write_engine(
        path,
        engine,
        flavour=flavour,
        identity=identity,
        rows=(rows.least, rows.best, rows.most),
        capabilities=targets,
        gpu=None if flavour.builds_ahead else torch.cuda.get_device_name(),
    )


def build_engine(flavour: Flavour, graph: Path, rows: RowRange, capabilities: Sequence[str] = ()) -> Any:
    """Build an engine of a graph that `export_onnx` wrote.

    Args:
        flavour: What builds it.
        graph: The file; weights beside it are found by its path.
        rows: What it will be called with.
        capabilities: With TensorRT-RTX, what the engine is for; empty with TensorRT.

    Returns:
        The serialised engine, a buffer of the library's.

    Raises:
        ValueError: The library refuses the graph or fails to build.
    """
    api, log = flavour.api, flavour.make_log()
    builder = api.Builder(log)
    # TensorRT 11 knows only strongly typed networks and ignores the flag; before it is a choice.
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        reason = parser.get_error(0).desc() if parser.num_errors else log.reason()
        raise ValueError(f"{flavour.name} {flavour.version} cannot read {graph}: {' '.join(reason.split())}")
    config = builder.create_builder_config()
    config.clear_flag(api.BuilderFlag.TF32)  # fp32 is fp32
    config.add_optimization_profile(_profile(builder, network, rows))
    if capabilities:
        known = flavour.capabilities()
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(known[capability], index)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f"{flavour.name} {flavour.version} cannot build {graph}: {log.reason()}")
    return engine


def check_capabilities(flavour: Flavour, capabilities: Sequence[str]) -> None:
    """Refuse what cannot be built here, before anything is loaded for it.

    Args:
        flavour: What would build.
        capabilities: Compute capabilities such as "8.6"; none is this machine's GPU.

    Raises:
        ValueError: One is unknown, the library builds for the GPU at hand alone, or there is none.
    """
    known = flavour.capabilities() if flavour.builds_ahead else {}
    if not capabilities and not torch.cuda.is_available():
        hint = f"give the compute capabilities it is for, of {', '.join(known)}" if known else ""
        raise ValueError(
            f"{flavour.name} has no GPU here to build for: {hint or 'tensorrt-rtx builds without one'}"
        )
    if capabilities and not known:
        raise ValueError(
            f"compute_capability must not be given for {flavour.name}, which builds for the GPU at hand,"
            f" got {', '.join(capabilities)}"
        )
    targets = capabilities or ([capability_of(torch.device("cuda"))] if known else [])
    if unknown := [one for one in targets if one not in known]:
        raise ValueError(f"compute_capability must be of {', '.join(known)}, got {unknown[0]!r}")


def capability_of(device: torch.device) -> str:
    """Return a GPU's compute capability, such as "9.0"."""
    return "{}.{}".format(*torch.cuda.get_device_capability(device))


def _profile(builder: Any, network: Any, rows: RowRange) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        one = network.get_input(index)
        shapes = [(count, *tuple(one.shape)[1:]) for count in (rows.least, rows.best, rows.most)]
        profile.set_shape(one.name, *shapes)
    return profile
