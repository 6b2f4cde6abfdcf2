"""Checks of single values of a configuration; each refuses a value by its field's name."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from mgd3_fast.errors import UserError

LARGEST_WHOLE = 2**31 - 1  # libraries count in 32 or 64 bits; nothing here has so many of anything
FILE_SUFFIX = re.compile(
    r"\.(ckpt|csv|gz|html|jpe?g|json|log|np[yz]|onnx|parquet|pdf|png|pth?|safetensors|svg|tar|txt|yaml|zip)"
)


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


def check_folder_or_url(name: str, value: Path | str) -> None:
    """Refuse what `check_folder` refuses of a path, and a URL that cannot be written."""
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
            f"{name} must be a whole number {span_of(lowest, limit if too_large else highest)}, got {value!r}"
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
        raise UserError(f"{name} must be a finite number {span_of(lowest, highest)}, got {value!r}")
    if above_zero and value == 0:
        raise UserError(f"{name} must be above 0, got {value}")


def span_of(lowest: float, highest: float | None) -> str:
    """Say a range; a whole number keeps all its digits."""
    least, most = (one if isinstance(one, int) else f"{one:g}" for one in (lowest, highest or math.inf))
    return f"of at least {least}" if most == "inf" else f"from {least} to {most}"


def check_device(name: str, value: str) -> None:
    """Refuse what names no device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise UserError(f"{name} must be auto, cpu, cuda or cuda:N, got {value!r}")
