"""What a distilled set is worth: classifiers trained on it by the protocols of the papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.evaluate import EvaluateConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.evaluate.evaluation import evaluate_folders

__all__ = ["EvaluateConfig", "evaluate_folders"]

__getattr__ = loaded_on_first_use(__name__, evaluate_folders="mgd3_fast.evaluate.evaluation")
