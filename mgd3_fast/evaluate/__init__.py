"""What a distilled set is worth: classifiers trained on it by the protocols of the papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mgd3_fast.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from mgd3_fast.evaluate.evaluation import evaluate

__all__ = ["EvaluateConfig", "evaluate"]


def __getattr__(name: str) -> Any:
    # `evaluate` needs torch, the configuration does not: the command line's help comes without it.
    if name == "evaluate":
        from mgd3_fast.evaluate.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
