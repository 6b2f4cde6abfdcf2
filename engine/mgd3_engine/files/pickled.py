"""PyTorch's own checkpoint format, read without running code from it."""

from __future__ import annotations

import pathlib
from collections import OrderedDict
from datetime import date, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

OBJECTS = (
    # Options of a training, which scripts store beside the weights.
    "argparse.Namespace",
    "types.SimpleNamespace",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String")),
    "typing.Any",
    # A key of the training states that PyTorch Lightning wrote before 1.5.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
MAPPINGS = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "munch.Munch",
    "addict.addict.Dict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
"""Classes that checkpoints hold beside their weights: none of them is imported."""

_PATHS = {"Posix": pathlib.PurePosixPath, "Windows": pathlib.PureWindowsPath}
_BUILTINS = (bool, dict, float, int, list, range, slice, str, tuple)
_TIMES = (date, datetime, timedelta, timezone)


class StandIn:
    """Takes the place of an object: it gets the attributes of that, and has none of its methods."""

    def __new__(cls, *_: object) -> StandIn:
        """Make one, whatever the object was made with."""
        return super().__new__(cls)


class _Mapping:
    """Takes the place of a class of mappings."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


def read_pickled(path: Path) -> object:
    """Read a checkpoint; its tensors are mapped from it, but for files from before PyTorch 1.6.

    Args:
        path: The file.

    Returns:
        Its content; paths are pure ones, numpy's arrays and scalars are what they were.

    Raises:
        ValueError: The file is damaged, or holds an object of any other class.
    """
    # The unpickler looks the names up and imports nothing.
    with torch.serialization.safe_globals(_allowed()):
        try:
            return _load(path)
        except Exception as error:  # a damaged byte makes the unpickler raise almost anything
            reason = " ".join(str(error).split())
            if "Unsupported global" in reason or "Unsupported class" in reason:
                culprit = reason.split("GLOBAL ")[-1].split(" was not")[0]
                raise ValueError(
                    f"{path} must hold only tensors and plain values, got the object {culprit}"
                ) from None
            # A bare number, or torch's advice on its own options, tells the user nothing.
            tells = " " in reason and not reason.startswith("Weights only load failed")
            why = f" ({reason[:120]})" if tells else ""
            raise ValueError(
                f"{path} must be a PyTorch checkpoint, got a damaged or foreign file{why}"
            ) from None


@cache
def _allowed() -> list[Any]:
    """What may stand in a checkpoint: each object with the name that a checkpoint calls it by."""
    paths = [
        (kind, f"{module}.{pure}{system}Path")
        for system, kind in _PATHS.items()
        for module in ("pathlib", "pathlib._local")  # the latter in Python 3.13
        for pure in ("", "Pure")
    ]
    arrays = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")  # before and since numpy 2
        for name, function in (
            ("scalar", np.float64(0).__reduce__()[0]),
            ("_reconstruct", np.zeros(0).__reduce__()[0]),
        )
    ]
    dtypes = {type(np.dtype(code)) for code in (*np.typecodes["All"], "S1", "U1")}
    return [
        *((StandIn, name) for name in OBJECTS),
        *((_Mapping, name) for name in MAPPINGS),
        *paths,
        *arrays,
        (np.ndarray, "numpy.ndarray"),
        (np.dtype, "numpy.dtype"),
        *((kind, f"numpy.dtypes.{kind.__name__}") for kind in dtypes),
        *((kind, f"builtins.{kind.__name__}") for kind in _BUILTINS),
        *((kind, f"datetime.{kind.__name__}") for kind in _TIMES),
    ]


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)
