"""What a comparison of distilled with real images is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_options, check_whole
from mgd3_fast.config.documented import documented
from mgd3_fast.config.evaluate import LARGEST_SIZE, PRESETS, check_epochs, epochs_of, names_of
from mgd3_fast.config.fields import (
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
    seed_option,
    whole,
    wholes_of,
)
from mgd3_fast.config.methods import REAL_METHODS
from mgd3_fast.errors import UserError

ALL_REAL = "all-real"
METHODS = ("mgd3", "unguided", *REAL_METHODS, ALL_REAL)


def _check_counts(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not value:
        raise UserError(f"{name} must be whole numbers separated by commas, such as 1,10, got {value!r}")
    for count in value:
        check_whole(name, count, 1)
    _check_different(name, value)


def _check_methods(name: str, value: object) -> None:
    unknown = [one for one in value if one not in METHODS] if isinstance(value, tuple) else [value]
    if unknown or not value:
        got = repr(unknown[0]) if unknown else "none"
        raise UserError(f"{name} must be among {', '.join(METHODS)}, separated by commas, got {got}")
    _check_different(name, value)


def _check_different(name: str, values: object) -> None:
    if isinstance(values, tuple) and len(set(values)) < len(values):
        raise UserError(f"{name} must name each but once, got {','.join(map(str, values))}")


@documented
@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What `compare_methods` is asked to do. None stands for what suits the dataset."""

    dataset: str = argument("a dataset, as for distill", metavar="DATASET", parse=str)
    ipc: tuple[int, ...] = option(
        "images per class, several numbers separated by commas",
        parse=wholes_of,
        metavar="N,..",
        check=_check_counts,
    )
    budget: str = budget_option("time for this call; the same command goes on where it stopped", default="1h")
    out: Path | str = folder("folder of the images, the trainings and the result", default="comparison")
    data_dir: Path | str | None = data_dir_option()
    classes: str | None = classes_option()
    generator: str = option(
        "what makes the images of mgd3 and unguided, as for distill; real images get its size",
        default="auto",
        metavar="NAME|PATH|ID",
    )
    methods: tuple[str, ...] = option(
        "what is compared, separated by commas: methods of distill, and all-real for all training images",
        default=METHODS,
        parse=names_of,
        metavar="NAME,..",
        check=_check_methods,
    )
    repeats: int = whole("trainings of each network on each set of images", default=3)
    seed: int = seed_option("seed of the images and of the first training")
    eval_split: str | None = option(
        "what is tested on, as for evaluate; with val the images are made without those that are held out"
        " (default: test, or val where the dataset has no other split)",
        default=None,
        metavar="test|val|NAME",
    )
    preset: str = option(
        "protocol's preset, as for evaluate; auto is quick for images of your own on a CPU",
        default="auto",
        choices=PRESETS,
    )
    networks: tuple[str, ...] | None = option(
        "classifiers, separated by commas (default: the preset's)",
        default=None,
        parse=names_of,
        metavar="NAME,..",
    )
    size: int | None = whole(
        "side of the images that the networks see, in pixels (default: as evaluate)",
        default=None,
        lowest=8,
        highest=LARGEST_SIZE,
        metavar="PX",
    )
    epochs: int | str = option(
        "code, paper or a number, as for evaluate",
        default="code",
        parse=epochs_of,
        metavar="code|paper|N",
        check=check_epochs,
    )
    background: str | None = background_option("what the generator records, else ")
    fit: str | None = fit_option("what the generator records, else ")
    on_bad_image: str = bad_image_option()
    device: str = device_option()
    cache_dir: Path | str | None = cache_option()

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def budget_s(self) -> float:
        """`budget` in seconds."""
        return read_budget(self.budget)
