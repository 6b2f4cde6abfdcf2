"""What a report is asked to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import FILE_SUFFIX, check_options
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import (
    argument,
    background_option,
    cache_option,
    data_dir_option,
    fit_option,
    option,
    path,
    whole,
)
from mgd3_fast.errors import UserError


def path_list(text: str) -> tuple[Path, ...]:
    """Read paths separated by commas."""
    paths = tuple(Path(part) for part in text.split(",") if part)
    if not paths:
        raise ValueError("no path")
    return paths


@documented
@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What `write_report` is asked to show."""

    folder: Path | str = argument("a finished run of distill, or its URL", metavar="DIR")
    dataset: str | None = option(
        "where the real images are: a name or path, as for distill (default: the run's own dataset)",
        default=None,
        metavar="NAME|PATH",
    )
    data_dir: Path | str | None = data_dir_option()
    background: str | None = background_option("what the run records, else ")
    fit: str | None = fit_option("what the run records, else ")
    generator: str | None = option(
        "whose autoencoder the map and the metrics use (default: the run's own)",
        default=None,
        metavar="NAME|PATH|ID",
    )
    evaluation: tuple[Path, ...] = option(
        "results of evaluate and compare, separated by commas: files or their folders (default: the"
        " comparison that the run is part of, if any)",
        default=(),
        parse=path_list,
        metavar="PATH,..",
    )
    classes_shown: int = whole("classes on the contact sheet, evenly spread", default=20)
    images_shown: int = whole("images of each of them", default=10)
    map: str = option("t-SNE maps and metrics of the classes shown", default="on", choices=("on", "off"))
    cache_dir: Path | str | None = cache_option()
    out: Path | str | None = path("file that is written (default: report.html in the folder)", default=None)

    def __post_init__(self) -> None:
        check_options(self)
        suffix = "" if self.out is None else Path(self.out).suffix.lower()
        if FILE_SUFFIX.fullmatch(suffix) and suffix != ".html":
            raise UserError(f"out must be an .html file, got {str(self.out)!r}")
        if not isinstance(self.evaluation, tuple):
            raise UserError(f"evaluation must be paths separated by commas, got {self.evaluation!r}")
