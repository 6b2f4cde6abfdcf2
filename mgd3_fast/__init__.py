"""Mode-guided diffusion dataset distillation: a labelled image dataset in, a small synthetic one out.

    from mgd3_fast import DistillConfig, distill
    distilled = distill(DistillConfig(dataset="mnist5k", ipc=10, out="distilled"))

The names below are loaded on first use, so that importing the package stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.check import check_dataset
    from mgd3_fast.config import DistillConfig
    from mgd3_fast.config.check import CheckConfig
    from mgd3_fast.config.publish import PublishConfig
    from mgd3_fast.config.tune import TuneConfig
    from mgd3_fast.errors import UserError
    from mgd3_fast.publish.publishing import publish_run
    from mgd3_fast.run.distillation import DistilledDataset, distill
    from mgd3_fast.tune.tuning import tune_generator

__version__ = "0.1.0"
__all__ = [
    "CheckConfig",
    "DistillConfig",
    "DistilledDataset",
    "PublishConfig",
    "TuneConfig",
    "UserError",
    "__version__",
    "check_dataset",
    "distill",
    "publish_run",
    "tune_generator",
]

__getattr__ = loaded_on_first_use(
    __name__,
    CheckConfig="mgd3_fast.config.check",
    DistillConfig="mgd3_fast.config",
    DistilledDataset="mgd3_fast.run.distillation",
    PublishConfig="mgd3_fast.config.publish",
    TuneConfig="mgd3_fast.config.tune",
    UserError="mgd3_fast.errors",
    check_dataset="mgd3_fast.check",
    distill="mgd3_fast.run.distillation",
    publish_run="mgd3_fast.publish.publishing",
    tune_generator="mgd3_fast.tune.tuning",
)
