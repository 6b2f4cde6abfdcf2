"""What a report is asked to show: a frozen configuration, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mgd3_fast.config.fields import check_options, check_whole, option
from mgd3_fast.errors import UserError


def path_list(text: str) -> tuple[Path, ...]:
    """Read paths separated by commas."""
    paths = tuple(Path(part) for part in text.split(",") if part)
    if not paths:
        raise ValueError("no path")
    return paths


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Everything `report` is asked to show.

    Args:
        folder: A finished run of `distill`.

    Raises:
        UserError: If a field is out of range; the message names the field, the rule and the value.
    """

    folder: Path | str = field(metadata={"parse": Path})
    dataset: str | None = option(
        "where the real images are: a name or path, as for distill (default: the run's own dataset)",
        default=None,
        metavar="NAME|PATH",
    )
    data_dir: Path | str | None = option(
        "ILSVRC tree of the imagenet names (default: $IMAGENET_DIR)", default=None, parse=Path, metavar="PATH"
    )
    generator: str | None = option(
        "whose autoencoder the map and the metrics use (default: the run's own)",
        default=None,
        metavar="NAME|PATH|ID",
    )
    evaluation: tuple[Path, ...] = option(
        "results of evaluate, separated by commas: evaluation.json files or their folders",
        default=(),
        parse=path_list,
        metavar="PATH,..",
    )
    classes_shown: int = option(
        "classes on the contact sheet, evenly spread", default=20, parse=int, metavar="N"
    )
    images_shown: int = option("images of each of them", default=10, parse=int, metavar="N")
    map: str = option("t-SNE maps and metrics of the classes shown", default="on", choices=("on", "off"))
    cache_dir: Path | str | None = option(
        "where latents are kept (default: $MGD3_CACHE or ~/.cache/mgd3-fast)",
        default=None,
        parse=Path,
        metavar="PATH",
    )
    out: Path | str | None = option(
        "file that is written (default: report.html in the folder)", default=None, parse=Path, metavar="PATH"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not isinstance(self.evaluation, tuple):
            raise UserError(f"evaluation must be paths separated by commas, got {self.evaluation!r}")
        check_whole("classes_shown", self.classes_shown, 1)
        check_whole("images_shown", self.images_shown, 1)
