"""What a check is asked to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_folder, check_options
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import (
    CACHE,
    argument,
    background_option,
    classes_option,
    data_dir_option,
    fit_option,
    option,
    path,
    place,
    whole,
)


@documented
@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What `check_dataset` is asked to look at."""

    dataset: str = argument(
        "a folder with one folder of images per class, or anything else that --dataset of distill takes",
        metavar="NAME|PATH|hf:...|wds:...",
        parse=str,
    )
    data_dir: Path | str | None = data_dir_option()
    classes: str | None = classes_option()
    ipc: int | None = whole("images per class that are to be distilled", default=None)
    size: int | None = whole(
        "side in pixels that the images are to be brought to (default: none in particular)",
        default=None,
        metavar="PX",
    )
    background: str | None = background_option()
    fit: str | None = fit_option()
    out: Path | str | None = option(
        "folder for check.json, or the .json file itself (default: nothing is written)",
        default=None,
        parse=place,
        metavar="PATH",
        check=lambda name, out: check_folder(name, out, ".json"),
    )
    cache_dir: Path | str | None = path(
        f"where the indexes of tars and streams are kept {CACHE}",
        default=None,
    )

    def __post_init__(self) -> None:
        check_options(self)
