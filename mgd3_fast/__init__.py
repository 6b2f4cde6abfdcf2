"""Mode-guided diffusion dataset distillation: a labelled image dataset in, a small synthetic one out.

    from mgd3_fast import DistillConfig, distill
    distilled = distill(DistillConfig(dataset="mnist5k", ipc=10, out="distilled"))

The names below are loaded on first use, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgd3_fast.config import DistillConfig
    from mgd3_fast.distillation import DistilledDataset, distill
    from mgd3_fast.errors import UserError

__version__ = "0.1.0"
__all__ = ["DistillConfig", "DistilledDataset", "UserError", "__version__", "distill"]

_HOMES = {
    "DistillConfig": "mgd3_fast.config",
    "DistilledDataset": "mgd3_fast.distillation",
    "UserError": "mgd3_fast.errors",
    "distill": "mgd3_fast.distillation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mgd3_fast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
