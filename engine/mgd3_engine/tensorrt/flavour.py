"""TensorRT and TensorRT-RTX: two libraries of one API, told apart here and nowhere else."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mgd3_engine.installing import install_command

_log = logging.getLogger(__name__)

FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Name and module."""

_EARLIEST = {"tensorrt": (10, 13), "tensorrt-rtx": (1, 2)}


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries, loaded.

    Args:
        name: A key of `FLAVOURS`.
        api: Its module.
    """

    name: str
    api: Any

    @property
    def version(self) -> str:
        """Of the library; engines of another one are refused."""
        return str(self.api.__version__)

    @property
    def builds_ahead(self) -> bool:
        """Whether it builds on a machine without a GPU, for GPUs named by their compute capability."""
        return self.name == "tensorrt-rtx"

    def capabilities(self) -> dict[str, Any]:
        """List the compute capabilities that engines can be built for ahead of time, such as "8.9"."""
        named = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in self.api.ComputeCapability.__members__}
        members = self.api.ComputeCapability.__members__
        return {f"{found[1]}.{found[2]}": members[name] for name, found in named.items() if found}

    def make_log(self) -> Any:
        """Make a logger that keeps errors, for messages of ours, and hands everything on to Python's.

        Returns:
            The library's `ILogger`, with a method `reason() -> str` that tells its last error.
        """
        api = self.api

        class KeptLog(api.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                api.ILogger.__init__(self)
                self.error = "no reason given"

            def log(self, severity: Any, message: str) -> None:
                if severity == api.ILogger.ERROR:
                    self.error = " ".join(message.split())
                _log.debug("%s", message)

            def reason(self) -> str:
                return self.error

        return KeptLog()


def load_flavour(name: str) -> Flavour:
    """Load one of the two libraries.

    Args:
        name: A key of `FLAVOURS`.

    Returns:
        The flavour.

    Raises:
        ValueError: It is not installed, or too old.
    """
    try:
        flavour = Flavour(name, import_module(FLAVOURS[name]))
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        how = install_command(name) if name == "tensorrt-rtx" else f"pip install {name}"
        raise ValueError(f"{name} is not installed ({reason}): {how}") from None
    found = tuple(int(part) for part in re.findall(r"\d+", flavour.version)[:2])
    if found < _EARLIEST[name]:
        earliest = ".".join(map(str, _EARLIEST[name]))
        raise ValueError(f"{name} {flavour.version} is too old: it must be {earliest} or later")
    return flavour


def installed_flavour(capability: str) -> Flavour:
    """Load the library that runs on a GPU here: TensorRT where it is installed, else TensorRT-RTX.

    Args:
        capability: Compute capability of the GPU, such as "9.0".

    Returns:
        The flavour.

    Raises:
        ValueError: Neither is installed, or only TensorRT-RTX is and it does not know the GPU.
    """
    reasons = []
    for name in FLAVOURS:
        try:
            flavour = load_flavour(name)
        except ValueError as error:
            reasons.append(str(error))
            continue
        if not flavour.builds_ahead or capability in flavour.capabilities():
            return flavour
        known = ", ".join(flavour.capabilities())
        reasons.append(f"{name} knows capabilities {known}, and this GPU has {capability}")
    raise ValueError(f"backend tensorrt finds neither TensorRT nor TensorRT-RTX: {'; '.join(reasons)}")
