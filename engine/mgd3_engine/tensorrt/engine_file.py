"""An engine on disk and the description beside it: what it computes, and where it runs.

An engine is bound to one version of its library and to kinds of GPU; what does not match is refused before
the library, whose answer would be less clear, sees it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mgd3_engine.export.identity import NetworkIdentity, installed_version
from mgd3_engine.files.json_file import read_json
from mgd3_engine.files.renaming import renamed
from mgd3_engine.tensorrt.flavour import Flavour

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """What an engine is wanted for.

    Args:
        flavour: Name of the library here.
        version: Of the library.
        weights: `NetworkIdentity.digest`.
        precision: Of the network.
        rows: R of the calls.
        capability: Compute capability of the GPU here.
        gpu: Its name.
    """

    flavour: str
    version: str
    weights: str
    precision: str
    rows: int
    capability: str
    gpu: str


@dataclass(frozen=True, kw_only=True)
class EngineDescription:
    """What stands beside an engine.

    Args:
        format: Of this description.
        flavour: Name of the library that built it, and the only one that reads it.
        version: Of the library.
        weights: `NetworkIdentity.digest`.
        precision: fp32, bf16 or fp16.
        dit: The architecture.
        rows: Fewest, best and most rows of a call.
        capabilities: Compute capabilities of the GPUs it runs on.
        gpu: The one model of GPU it runs on, or None where the capability decides.
        bytes: Length of the engine.
        sha256: Of the engine.
        mgd3_fast: Version that wrote it.
    """

    format: int
    flavour: str
    version: str
    weights: str
    precision: str
    dit: dict[str, Any]
    rows: tuple[int, int, int]
    capabilities: tuple[str, ...]
    gpu: str | None
    bytes: int
    sha256: str
    mgd3_fast: str

    def refusal(self, target: EngineTarget) -> str:
        """Say in one line why the engine is not for the target, or return an empty string."""
        least, _, most = self.rows
        checks = (
            (self.weights == target.weights, f"of weights {target.weights[:12]}", self.weights[:12]),
            (self.precision == target.precision, f"of precision {target.precision}", self.precision),
            (
                (self.flavour, self.version) == (target.flavour, target.version),
                f"of {target.flavour} {target.version}",
                f"{self.flavour} {self.version}",
            ),
            (
                target.capability in self.capabilities,
                f"for compute capability {target.capability} ({target.gpu})",
                ", ".join(self.capabilities),
            ),
            (self.gpu in (None, target.gpu), f"for a {target.gpu}", str(self.gpu)),
            (least <= target.rows <= most, f"for {target.rows} rows", f"{least} to {most}"),
        )
        return next((f"must be {rule}, got {found}" for holds, rule, found in checks if not holds), "")


@dataclass(frozen=True)
class EngineFile:
    """An engine that is complete.

    Args:
        path: The engine.
        description: From the file beside it.
    """

    path: Path
    description: EngineDescription

    @classmethod
    def open(cls, path: Path) -> EngineFile:
        """Read the description of an engine.

        Args:
            path: The engine.

        Returns:
            The engine, not read yet.

        Raises:
            FileNotFoundError: The engine or its description is missing.
            ValueError: The description is damaged or of another version.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no engine at {path}")
        stored = read_json(description_file(path))
        if stored.get("format") != _FORMAT:
            raise ValueError(
                f"format of {description_file(path)} must be {_FORMAT}, got {stored.get('format')!r}"
            )
        try:
            sequences = {name: tuple(stored[name]) for name in ("rows", "capabilities")}
            description = EngineDescription(**{**stored, **sequences})
        except (KeyError, TypeError):
            known = ", ".join(one.name for one in fields(EngineDescription))
            raise ValueError(f"{description_file(path)} must have {known}, got {', '.join(stored)}") from None
        return cls(path, description)

    def read(self, target: EngineTarget) -> bytes:
        """Read the engine, once it is certain that it is for the target and whole.

        Args:
            target: What it is wanted for.

        Returns:
            The serialised engine.

        Raises:
            ValueError: It is for something else, or damaged.
        """
        if refusal := self.description.refusal(target):
            raise ValueError(f"engine {self.path} {refusal}")
        engine = self.path.read_bytes()
        if hashlib.sha256(engine).hexdigest() != self.description.sha256:
            raise ValueError(
                f"engine {self.path} is damaged or another than its description says; build it again"
            )
        return engine


def write_engine(
    path: Path,
    engine: Any,
    *,
    flavour: Flavour,
    identity: NetworkIdentity,
    rows: tuple[int, int, int],
    capabilities: tuple[str, ...],
    gpu: str | None,
) -> EngineDescription:
    """Write an engine and its description, which comes last: an engine that has one is complete.

    Args:
        path: The engine.
        engine: Serialised, a buffer.
        flavour: What built it.
        identity: Of the network.
        rows: Fewest, best and most rows.
        capabilities: Compute capabilities it runs on.
        gpu: The one model of GPU it runs on, or None.

    Returns:
        The description.

    Raises:
        OSError: The folder cannot be written.
    """
    contents = memoryview(engine)
    description = EngineDescription(
        format=_FORMAT,
        flavour=flavour.name,
        version=flavour.version,
        weights=identity.digest,
        precision=identity.precision,
        dit=asdict(identity.config),
        rows=rows,
        capabilities=capabilities,
        gpu=gpu,
        bytes=contents.nbytes,
        sha256=hashlib.sha256(contents).hexdigest(),
        mgd3_fast=installed_version("mgd3-fast"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with renamed(path, shared=True) as unfinished:
        unfinished.write_bytes(contents)
    with renamed(description_file(path), shared=True) as unfinished:
        unfinished.write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")
    return description


def description_file(path: Path) -> Path:
    """Name the file that describes an engine."""
    return path.with_name(f"{path.name}.json")
