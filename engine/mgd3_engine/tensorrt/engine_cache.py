"""The engines in the cache: found by what they are wanted for, built where there is none."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from mgd3_engine.dit import DiT
from mgd3_engine.export import NetworkIdentity, identify
from mgd3_engine.tensorrt.building import RowRange, capability_of, check_capabilities, export_engine
from mgd3_engine.tensorrt.engine_file import EngineFile, EngineTarget, description_file
from mgd3_engine.tensorrt.flavour import Flavour

_log = logging.getLogger(__name__)
SUFFIX = ".engine"


def engine_folder(cache_dir: Path) -> Path:
    """Name the folder that backend tensorrt looks for engines in, whoever built them.

    Args:
        cache_dir: Folder of what is kept for later runs.

    Returns:
        `cache_dir/engines`.
    """
    return cache_dir / "engines"


def find_engine(target: EngineTarget, folder: Path) -> EngineFile | None:
    """Find the engine that fits best; why others of the same network do not fit is logged.

    Args:
        target: What it is wanted for.
        folder: Where engines and their descriptions lie.

    Returns:
        The engine tuned for the target's rows if there is one, else the one of the tightest range, or None.
    """
    fitting = []
    for described in sorted(folder.glob(f"*{SUFFIX}.json")):
        path = described.with_suffix("")
        try:
            found = EngineFile.open(path)
        except (OSError, ValueError) as error:
            _log.warning("engine passed over: %s", error)
            continue
        if (found.description.weights, found.description.precision) != (target.weights, target.precision):
            continue
        if refusal := found.description.refusal(target):
            _log.info("engine passed over: %s %s", path, refusal)
        else:
            fitting.append(found)

    def distance(one: EngineFile) -> tuple[bool, int]:
        least, best, most = one.description.rows
        return best != target.rows, most - least

    return min(fitting, key=distance, default=None)


def cached_engine(
    dit: DiT,
    flavour: Flavour,
    rows: RowRange,
    *,
    cache_dir: Path,
    capabilities: Sequence[str] = (),
    identity: NetworkIdentity | None = None,
) -> EngineFile:
    """Find the engine of exactly these settings in the cache, building it the first time.

    Args:
        dit: The network.
        flavour: What builds it.
        rows: What it will be called with.
        capabilities: As `export_engine`.
        cache_dir: Folder of what is kept for later runs.
        identity: Of the network, where it is known already.

    Returns:
        The engine, in `engine_folder(cache_dir)`.

    Raises:
        ValueError, OSError: As `export_engine`.
    """
    identity = identity or identify(dit)
    path = engine_path(identity, flavour, rows, capabilities=capabilities, cache_dir=cache_dir)
    if not description_file(path).is_file():
        export_engine(
            dit, path, flavour, rows, capabilities=capabilities, cache_dir=cache_dir, identity=identity
        )
    return EngineFile.open(path)


def engine_path(
    identity: NetworkIdentity,
    flavour: Flavour,
    rows: RowRange,
    *,
    cache_dir: Path,
    capabilities: Sequence[str] = (),
) -> Path:
    """Name an engine in the cache by all that it is made of, whether it exists or not.

    Args:
        identity: Of the network.
        flavour: What builds it.
        rows: What it will be called with.
        capabilities: As `export_engine`.
        cache_dir: Folder of what is kept for later runs.

    Returns:
        A file in `engine_folder(cache_dir)`.

    Raises:
        ValueError: What cannot be built here, see `check_capabilities`.
    """
    check_capabilities(flavour, capabilities)
    gpus = sorted(capabilities) or [torch.cuda.get_device_name(), capability_of(torch.device("cuda"))]
    content = json.dumps([identity.digest, flavour.name, flavour.version, str(rows), *gpus])
    name = f"{identity.precision}-{hashlib.sha256(content.encode()).hexdigest()[:24]}{SUFFIX}"
    return engine_folder(cache_dir) / name
