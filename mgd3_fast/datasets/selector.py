"""Which classes to open: names, indices and ranges, as in "0-9,n01440764"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from mgd3_fast.errors import UserError

_RANGE = re.compile(r"(\d+)-(\d+)")


def select_classes(
    classes: str | Iterable[int], names: Sequence[str], opened: Iterable[int] | None = None
) -> list[int]:
    """Turn a selector into labels.

    A part that equals a class name means that class, also when the name is a number or holds commas; any
    other number is an index, and `a-b` is a range of indices with both ends in it.

    Args:
        classes: Comma-separated parts, or the labels themselves.
        names: The full class list, in label order.
        opened: Labels that may be chosen; all by default.

    Returns:
        Labels, ascending, each once.

    Raises:
        UserError: A part names no class, an index is out of range, or nothing is chosen.
    """
    allowed = set(range(len(names)) if opened is None else opened)
    if isinstance(classes, str):
        by_name = {name: label for label, name in enumerate(names)}
        chosen = {label for part in _parts(classes, by_name) for label in _labels_of(part, names, by_name)}
    else:
        chosen = set(classes)
    if not chosen:
        raise UserError(f"classes must choose at least one class, got {classes!r}")
    outside = sorted(chosen - allowed)
    if outside:
        shown = ", ".join(str(label) for label in outside[:5])
        raise UserError(f"classes must be among the {len(allowed)} opened ones, got {shown}")
    return sorted(chosen)


def _parts(text: str, by_name: Mapping[str, int]) -> Iterator[str]:
    """Split at commas, except at those of class names ("tench, Tinca tinca")."""
    words = text.split(",")
    longest = 1 + max(name.count(",") for name in by_name)
    while words:
        joined = [",".join(words[:count]).strip() for count in range(min(longest, len(words)), 0, -1)]
        part = next((one for one in joined if one in by_name), joined[-1])
        del words[: 1 + part.count(",")]
        if part:
            yield part


def _labels_of(part: str, names: Sequence[str], by_name: Mapping[str, int]) -> Iterable[int]:
    if part in by_name:
        return [by_name[part]]
    span = _RANGE.fullmatch(part)
    if span or part.isdecimal():
        first, last = (int(span[1]), int(span[2])) if span else (int(part), int(part))
        if first <= last < len(names):
            return range(first, last + 1)
        raise UserError(f"classes must be indices within 0..{len(names) - 1}, ranges ascending, got {part!r}")
    near = get_close_matches(part, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else f", such as {names[0]!r}"
    raise UserError(f"classes must be class names, indices or ranges, got {part!r}{hint}")
