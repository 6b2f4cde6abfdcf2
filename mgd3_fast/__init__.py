"""Mode-guided diffusion dataset distillation: a labelled image dataset in, a small synthetic one out.

    from mgd3_fast import DistillConfig, distill
    distilled = distill(DistillConfig(dataset="mnist5k", ipc=10, out="distilled"))

Every command of `mgd3-fast` has a function that takes its configuration and a `Progress`. Names are loaded
on first use, so importing the package stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.check import Checked, check_dataset
    from mgd3_fast.compare.comparing import compare_methods
    from mgd3_fast.config import DiscoverConfig, DistillConfig
    from mgd3_fast.config.check import CheckConfig
    from mgd3_fast.config.compare import CompareConfig
    from mgd3_fast.config.convert import ConvertConfig
    from mgd3_fast.config.evaluate import EvaluateConfig
    from mgd3_fast.config.export import ExportConfig
    from mgd3_fast.config.judge import JudgeConfig
    from mgd3_fast.config.metrics import MetricsConfig
    from mgd3_fast.config.publish import PublishConfig
    from mgd3_fast.config.report import ReportConfig
    from mgd3_fast.config.train import TrainConfig
    from mgd3_fast.config.tune import TuneConfig
    from mgd3_fast.errors import Interrupted, UserError
    from mgd3_fast.evaluate.evaluation import evaluate_folders
    from mgd3_fast.export.exporting import Exported, export_network
    from mgd3_fast.formats.converting import Conversion, convert
    from mgd3_fast.judge.judging import judge_generator
    from mgd3_fast.metrics.measuring import Measured, measure
    from mgd3_fast.modes import ModeSet
    from mgd3_fast.progress import Progress
    from mgd3_fast.publish.publishing import Published, publish_run
    from mgd3_fast.report.page import write_report
    from mgd3_fast.run.discovery import discover
    from mgd3_fast.run.distillation import DistilledDataset, distill
    from mgd3_fast.train.training import train_generator
    from mgd3_fast.tune.tuning import tune_generator

__version__ = "0.1.0"
__all__ = [
    "CheckConfig",
    "Checked",
    "CompareConfig",
    "Conversion",
    "ConvertConfig",
    "DiscoverConfig",
    "DistillConfig",
    "DistilledDataset",
    "EvaluateConfig",
    "ExportConfig",
    "Exported",
    "Interrupted",
    "JudgeConfig",
    "Measured",
    "MetricsConfig",
    "ModeSet",
    "Progress",
    "PublishConfig",
    "Published",
    "ReportConfig",
    "TrainConfig",
    "TuneConfig",
    "UserError",
    "__version__",
    "check_dataset",
    "compare_methods",
    "convert",
    "discover",
    "distill",
    "evaluate_folders",
    "export_network",
    "judge_generator",
    "measure",
    "publish_run",
    "train_generator",
    "tune_generator",
    "write_report",
]

__getattr__ = loaded_on_first_use(
    __name__,
    CheckConfig="mgd3_fast.config.check",
    Checked="mgd3_fast.check",
    CompareConfig="mgd3_fast.config.compare",
    Conversion="mgd3_fast.formats.converting",
    ConvertConfig="mgd3_fast.config.convert",
    DiscoverConfig="mgd3_fast.config",
    DistillConfig="mgd3_fast.config",
    DistilledDataset="mgd3_fast.run.distillation",
    EvaluateConfig="mgd3_fast.config.evaluate",
    ExportConfig="mgd3_fast.config.export",
    Exported="mgd3_fast.export.exporting",
    Interrupted="mgd3_fast.errors",
    JudgeConfig="mgd3_fast.config.judge",
    Measured="mgd3_fast.metrics.measuring",
    MetricsConfig="mgd3_fast.config.metrics",
    ModeSet="mgd3_fast.modes",
    Progress="mgd3_fast.progress",
    PublishConfig="mgd3_fast.config.publish",
    Published="mgd3_fast.publish.publishing",
    ReportConfig="mgd3_fast.config.report",
    TrainConfig="mgd3_fast.config.train",
    TuneConfig="mgd3_fast.config.tune",
    UserError="mgd3_fast.errors",
    check_dataset="mgd3_fast.check",
    compare_methods="mgd3_fast.compare.comparing",
    convert="mgd3_fast.formats.converting",
    discover="mgd3_fast.run.discovery",
    distill="mgd3_fast.run.distillation",
    evaluate_folders="mgd3_fast.evaluate.evaluation",
    export_network="mgd3_fast.export.exporting",
    judge_generator="mgd3_fast.judge.judging",
    measure="mgd3_fast.metrics.measuring",
    publish_run="mgd3_fast.publish.publishing",
    train_generator="mgd3_fast.train.training",
    tune_generator="mgd3_fast.tune.tuning",
    write_report="mgd3_fast.report.page",
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
