"""The engines in the cache: found by what they are wanted for, built where there is none."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

from mgd3_engine.cache import default_cache_dir
from mgd3_engine.export import NetworkIdentity
from mgd3_engine.tensorrt.engine_file import EngineFile, EngineTarget

_log = logging.getLogger(__name__)
SUFFIX = ".engine"


def engine_folder(cache_dir: Path | None = None) -> Path:
    """Name the folder that backend tensorrt looks for engines in, whoever built them.

    Args:
        cache_dir: Cache folder; None is the default one.

    Returns:
        `cache_dir/engines`.
    """
    return (cache_dir if cache_dir is not None else default_cache_dir()) / "engines"


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


def engine_name(identity: NetworkIdentity, settings: tuple[object, ...]) -> str:
    """Name an engine in the cache by all that it is made of.

    Args:
        identity: Of the network.
        settings: Library, version, rows and GPUs.

    Returns:
        A file name.
    """
    content = json.dumps([identity.digest, asdict(identity.config), *map(str, settings)])
    return f"{identity.precision}-{hashlib.sha256(content.encode()).hexdigest()[:24]}{SUFFIX}"
