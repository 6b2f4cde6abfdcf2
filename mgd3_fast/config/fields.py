"""Fields of a configuration that the command line offers as options, and the checks of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError

LARGEST_SEED = 2**32 - 1  # scikit-learn takes no larger one
LARGEST_WHOLE = 2**31 - 1  # libraries count in 32 or 64 bits; nothing here has so many of anything
FILE_SUFFIX = re.compile(
    r"\.(ckpt|csv|gz|html|jpe?g|json|log|np[yz]|onnx|parquet|pdf|png|pth?|safetensors|svg|tar|txt|yaml|zip)"
)
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
    span = f"a whole number {_span(lowest, highest)}"
    return option(help, default=default, parse=int, metavar=metavar, check=check, span=span)


def number(help: str, *, default: Any = MISSING, highest: float = math.inf, above_zero: bool = False) -> Any:
    """Declare a number from 0 to `highest`, or above 0; see `option` and `check_number`."""
    check = partial(check_number, lowest=0.0, highest=highest, above_zero=above_zero)
    span = f"a number {_span(0, highest)}" + (", 0 left out" if above_zero else "")
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
    check = _check_folder_or_url if on_store else check_folder
    return option(help, default=default, parse=place, metavar="PATH", check=check)


def device_option() -> Any:
    """Declare the device that networks run on."""
    return option("auto, cpu, cuda or cuda:N", default="auto", metavar="NAME", check=_check_device)


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


def auto_or_int(text: str) -> int | str:
    """Read "auto" or a whole number."""
    return text if text == "auto" else int(text)


def check_options(config: Any) -> None:
    """Refuse a field that is empty, not among its declared choices, or refused by its declared check.

    An empty text is most often a variable that a shell does not know; as a path it would be the folder at
    hand.

    Raises:
        UserError: Naming the field, the value and what is allowed.
    """
    for declared in fields(config):
        name, value, metadata = declared.name, getattr(config, declared.name), declared.metadata
        choices, check = metadata.get("choices"), metadata.get("check")
        if choices and value is not None and value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if value == "" or (isinstance(value, (tuple, list)) and "" in value):
            raise UserError(f"{name} must not be empty, got ''")
        if check and not (value is None and declared.default is None):
            check(name, value)


def check_local(name: str, value: Path | str) -> None:
    """Refuse a URL.

    Raises:
        UserError: Naming the field and the value.
    """
    if "://" in str(value):
        also = ": only distill writes to a URL" if name == "out" else ""
        raise UserError(f"{name} must be a path of this machine, got {value}{also}")


def check_folder(name: str, value: Path | str, *but: str) -> None:
    """Refuse a URL, and a new folder that would be named as a file is; suffixes in `but` are welcome.

    Raises:
        UserError: Naming the field and the value.
    """
    check_local(name, value)
    suffix = Path(value).suffix.lower()
    if FILE_SUFFIX.fullmatch(suffix) and suffix not in but and not Path(value).exists():
        raise UserError(f"{name} must be a folder, got {str(value)!r}, which is named like a {suffix} file")


def _check_folder_or_url(name: str, value: Path | str) -> None:
    if "://" not in str(value):
        check_folder(name, value)
    elif str(value).lower().startswith(("http://", "https://")):
        raise UserError(
            f"{name} must be a folder or a URL that can be written (s3://, gs://, hf://), got {value}"
        )
    elif not str(value).partition("://")[2].strip("/"):
        raise UserError(f"{name} must name a bucket and a folder, as s3://bucket/folder does, got {value}")


def check_whole(name: str, value: object, lowest: int, highest: int | None = None) -> None:
    """Refuse a value that is not a whole number from `lowest` to `highest`.

    Raises:
        UserError: Naming the field, the range and the value.
    """
    limit = LARGEST_WHOLE if highest is None else highest
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= limit:
        too_large = isinstance(value, int) and value > limit
        raise UserError(
            f"{name} must be a whole number {_span(lowest, limit if too_large else highest)}, got {value!r}"
        )


def check_number(
    name: str, value: object, lowest: float, highest: float = math.inf, *, above_zero: bool = False
) -> None:
    """Refuse a value that is not a finite number from `lowest` to `highest`, or that is zero if it must not.

    Raises:
        UserError: Naming the field, the range and the value.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not lowest <= value <= highest:  # type: ignore[operator]
        raise UserError(f"{name} must be a finite number {_span(lowest, highest)}, got {value!r}")
    if above_zero and value == 0:
        raise UserError(f"{name} must be above 0, got {value}")


def _span(lowest: float, highest: float | None) -> str:
    """Say a range; a whole number keeps all its digits."""
    least, most = (one if isinstance(one, int) else f"{one:g}" for one in (lowest, highest or math.inf))
    return f"of at least {least}" if most == "inf" else f"from {least} to {most}"


def _check_device(name: str, value: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise UserError(f"{name} must be auto, cpu, cuda or cuda:N, got {value!r}")
