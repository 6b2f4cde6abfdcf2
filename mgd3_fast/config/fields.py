"""Fields of a configuration that the command line offers as options, and the checks of their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, fields
from typing import Any

from mgd3_fast.errors import UserError

LARGEST_SEED = 2**32 - 1  # scikit-learn takes no larger one
LARGEST_WHOLE = 2**31 - 1  # libraries count in 32 or 64 bits; nothing here has so many of anything


def auto_or_int(text: str) -> int | str:
    """Read "auto" or a whole number."""
    return text if text == "auto" else int(text)


def option(
    help: str,
    *,
    default: Any = MISSING,
    parse: Callable[[str], Any] = str,
    choices: Sequence[str] = (),
    metavar: str | None = None,
) -> Any:
    """Declare a field that the command line offers as an option.

    Args:
        help: Help text, without the default, which is added.
        default: Default value; a field without one is a required option.
        parse: Turns the option's text into the field's value; text it refuses is left to `__post_init__`.
        choices: Allowed words, checked by `check_options`.
        metavar: How the value is named in the help.

    Returns:
        A dataclass field.
    """
    return field(
        default=default,
        metadata={"help": help, "parse": parse, "choices": tuple(choices), "metavar": metavar},
    )


def check_options(config: Any) -> None:
    """Refuse a field that is empty, or whose value is not among its declared choices.

    An empty text is most often a variable that a shell does not know; as a path it would be the folder at
    hand.

    Raises:
        UserError: Naming the field, the value and the allowed ones.
    """
    for declared in fields(config):
        choices, value = declared.metadata.get("choices", ()), getattr(config, declared.name)
        if choices and value is not None and value not in choices:
            raise UserError(f"{declared.name} must be one of {', '.join(choices)}, got {value!r}")
        if value == "" or (isinstance(value, (tuple, list)) and "" in value):
            raise UserError(f"{declared.name} must not be empty, got ''")


def check_whole(name: str, value: object, lowest: int, highest: int | None = None) -> None:
    """Refuse a value that is not a whole number from `lowest` to `highest`.

    Raises:
        UserError: Naming the field, the range and the value.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    limit = LARGEST_WHOLE if highest is None else highest
    if not whole or not lowest <= value <= limit:  # type: ignore[operator]
        too_large = whole and value > limit  # type: ignore[operator]
        span = f"from {lowest} to {limit}" if too_large or highest is not None else f"of at least {lowest}"
        raise UserError(f"{name} must be a whole number {span}, got {value!r}")


def check_number(name: str, value: object, lowest: float, highest: float = math.inf) -> None:
    """Refuse a value that is not a finite number from `lowest` to `highest`.

    Raises:
        UserError: Naming the field, the range and the value.
    """
    span = f"of at least {lowest:g}" if highest == math.inf else f"from {lowest:g} to {highest:g}"
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not lowest <= value <= highest:  # type: ignore[operator]
        raise UserError(f"{name} must be a finite number {span}, got {value!r}")
