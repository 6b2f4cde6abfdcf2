"""Fields of a configuration that the command line offers as options."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, field
from functools import partial
from pathlib import Path
from typing import Any

from mgd3_fast.config.checks import (
    check_device,
    check_folder,
    check_folder_or_url,
    check_local,
    check_number,
    check_whole,
    span_of,
)
from mgd3_fast.errors import UserError

LARGEST_SEED = 2**32 - 1  # scikit-learn takes no larger one
_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
CACHE = "(default: $MGD3_CACHE or ~/.cache/mgd3-fast)"
FITS = ("crop", "pad")
ON_BAD_IMAGE = ("error", "skip")
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}


def option(
    help: str,
    *,
    default: Any = MISSING,
    parse: Callable[[Any], Any] = str,
    choices: Sequence[str] = (),
    metavar: str | None = None,
    check: Callable[[str, Any], object] | None = None,
    span: str = "",
    **arguments: Any,
) -> Any:
    """Declare a field of a dataclass that the command line offers as an option.

    Args:
        help: Help text, without the default, which is added.
        default: Default value; a field without one is a required option.
        parse: Turns the option's text into the field's value; text it refuses is left to `check_options`.
        choices: Allowed words.
        metavar: How the value is named in the help.
        check: Called with the field's name and value; raises a `UserError`.
        span: What the check allows, in words, where they are not in the help.
        arguments: Of argparse, for an option that is not one word with its value.
    """
    metadata = {"help": help, "parse": parse, "choices": tuple(choices), "metavar": metavar, "check": check}
    return field(default=default, metadata={**metadata, "span": span, "argparse": arguments})


def argument(help: str, *, metavar: str, **rest: Any) -> Any:
    """Declare what the command line takes by its place instead of by its name; see `option`."""
    declared = option(help, metavar=metavar, **{"parse": place, **rest})
    return field(metadata={**declared.metadata, "positional": True})


def whole(
    help: str, *, default: Any = MISSING, lowest: int = 1, highest: int | None = None, metavar: str = "N"
) -> Any:
    """Declare a whole number; see `option` and `check_whole`."""
    check = partial(check_whole, lowest=lowest, highest=highest)
    span = f"a whole number {span_of(lowest, highest)}"
    return option(help, default=default, parse=int, metavar=metavar, check=check, span=span)


def seed_option(help: str, *, default: int | None = 0) -> Any:
    """Declare a seed."""
    return whole(help, default=default, lowest=0, highest=LARGEST_SEED)


def number(help: str, *, default: Any = MISSING, highest: float = math.inf, above_zero: bool = False) -> Any:
    """Declare a number from 0 to `highest`, or above 0; see `option` and `check_number`."""
    check = partial(check_number, lowest=0.0, highest=highest, above_zero=above_zero)
    span = f"a number {span_of(0, highest)}" + (", 0 left out" if above_zero else "")
    return option(help, default=default, parse=float, metavar="X", check=check, span=span)


def path(help: str, *, default: Any = MISSING, metavar: str = "PATH", on_store: bool = False) -> Any:
    """Declare a file or folder, which may be a URL `on_store`; see `option`."""
    return option(
        help, default=default, parse=place, metavar=metavar, check=None if on_store else check_local
    )


def place(text: str) -> Path | str:
    """A path; a URL stays text, as a path would lose one of its slashes."""
    return text if "://" in text else Path(text)


def folder(help: str, *, default: Any = MISSING, on_store: bool = False) -> Any:
    """Declare a folder that is written, which may be a URL `on_store`; see `option` and `check_folder`."""
    check = check_folder_or_url if on_store else check_folder
    return option(help, default=default, parse=place, metavar="PATH", check=check)


def device_option() -> Any:
    """Declare the device that networks run on."""
    return option("auto, cpu, cuda or cuda:N", default="auto", metavar="NAME", check=check_device)


def classes_option() -> Any:
    """Declare the selector of classes."""
    return option(
        "only these classes: names separated by commas (default: all)", default=None, metavar="NAMES"
    )


def split_option() -> Any:
    """Declare the part of the training images that is used."""
    return option(
        "train: all training images; fit: without those that `evaluate --eval-split val` tests on",
        default="train",
        choices=("train", "fit"),
    )


def data_dir_option() -> Any:
    """Declare the folder that ImageNet's names are class lists over."""
    return path(
        "ILSVRC tree of the imagenet names, or its URL (default: $IMAGENET_DIR)", default=None, on_store=True
    )


def cache_option() -> Any:
    """Declare where latents are kept."""
    return path(
        f"where latents are kept for later runs, or the URL where machines share them {CACHE}",
        default=None,
        on_store=True,
    )


def budget_option(help: str, *, default: Any = MISSING) -> Any:
    """Declare how long something may take; see `read_budget`."""
    return option(help, default=default, metavar="TIME", check=lambda _, value: read_budget(value))


def read_budget(text: str) -> float:
    """Read a time such as 45s, 90m, 1.5h or 1h30m, in seconds.

    Raises:
        UserError: It is no such time, or 0.
    """
    match = _BUDGET.fullmatch(str(text))
    parts = match.groups(default="0") if match else ()
    seconds = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise UserError(f"budget must be a time such as 45s, 90m or 1h30m, got {text!r}")
    return seconds


def heads_option(named: str = "") -> Any:
    """Declare the attention heads of a DiT, `named` by the option that it is given as."""
    return whole(
        f"attention heads of {named}a DiT's file of unpublished width (default: what lies beside it)",
        default=None,
    )


def background_option(recorded: str = "") -> Any:
    """Declare the colour behind transparent pictures, which is else that of a thing that records one."""
    return option(
        "colour that transparent pictures are laid over, which also fills what --fit pad leaves empty"
        f" (default: {recorded}white)",
        default=None,
        metavar="white|black|R,G,B",
        check=lambda _, text: colour_of(text),
    )


def fit_option(recorded: str = "") -> Any:
    """Declare how pictures become square; see `background_option`."""
    return option(
        "crop: the centre of a picture that is not square, as MGD3's own code does; pad: all of it, with the"
        f" background beside it (default: {recorded}crop)",
        default=None,
        choices=FITS,
    )


def colour_of(text: str) -> tuple[int, int, int]:
    """Read "white", "black" or "R,G,B".

    Raises:
        UserError: It is none of them, or a number is not from 0 to 255.
    """
    if text in _COLOURS:
        return _COLOURS[text]
    parts = str(text).split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) <= 255 for part in parts):
        raise UserError(f"background must be white, black or R,G,B from 0 to 255 each, got {text!r}")
    red, green, blue = map(int, parts)
    return red, green, blue


def bad_image_option() -> Any:
    """Declare the rule for images that cannot be read."""
    return option("what to do about an image that cannot be read", default="error", choices=ON_BAD_IMAGE)


def folders_of(words: list[str]) -> tuple[Path | str, ...]:
    """Take positional arguments as folders, or their URLs."""
    return tuple(map(place, words))


def wholes_of(text: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas."""
    return tuple(map(int, text.split(",")))


def auto_or_int(text: str) -> int | str:
    """Read "auto" or a whole number."""
    return text if text == "auto" else int(text)
