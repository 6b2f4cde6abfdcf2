"""What the tuning of a generator is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_options
from mgd3_fast.config.documented import documented
from mgd3_fast.config.encode import PRECISIONS
from mgd3_fast.config.fields import (
    LARGEST_SEED,
    argument,
    background_option,
    bad_image_option,
    budget_option,
    cache_option,
    classes_option,
    data_dir_option,
    device_option,
    fit_option,
    folder,
    option,
    read_budget,
    whole,
)

MOST_SEEDS = 5
"""Paired seeds of the last round, counted up from the first."""


@documented
@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What `tune_generator` is asked to do."""

    generator: str = argument("generator, as for distill", metavar="GENERATOR", parse=str)
    dataset: str = option(
        "dataset as for distill; a fifth of its training images is held out", metavar="NAME|PATH"
    )
    data_dir: Path | str | None = data_dir_option()
    classes: str | None = classes_option()
    ipc: int = whole("images per class")
    budget: str = budget_option("time for images and trainings, such as 90s, 30m or 1h30m", default="30m")
    out: Path | str = folder("folder of results; what is finished there is not done again", default="tuning")
    epochs: int | None = whole("epochs of a whole training (default: the protocol's)", default=None)
    seed: int = whole(
        "first seed, of modes, images and classifiers",
        default=0,
        lowest=0,
        highest=LARGEST_SEED - MOST_SEEDS + 1,
    )
    dry_run: bool = option(
        "leave the generator's folder as it is", default=False, parse=bool, action="store_true"
    )
    background: str | None = background_option("what the generator records, else ")
    fit: str | None = fit_option("what the generator records, else ")
    on_bad_image: str = bad_image_option()
    precision: str = option("number format of the generator", default="auto", choices=PRECISIONS)
    device: str = device_option()
    cache_dir: Path | str | None = cache_option()

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def budget_s(self) -> float:
        """`budget` in seconds."""
        return read_budget(self.budget)
