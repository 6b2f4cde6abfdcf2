"""Names of classes: which of them to open, which names are the same, and whether their order may surprise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from unicodedata import normalize

from mgd3_fast.errors import UserError, listed, printable

_RANGE = re.compile(r"(\d+)-(\d+)")
_NUMBER = re.compile(r"(\d+)")


def select_classes(
    classes: str | Iterable[int], names: Sequence[str], opened: Iterable[int] | None = None
) -> list[int]:
    """Turn a selector such as "0-9,n01440764" into labels.

    A part that is a class name means that class, also when the name is a number or holds commas; any other
    number is an index, and `a-b` is a range of indices with both ends in it.

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
        named = place_finder({name: label for label, name in enumerate(names)})
        chosen = {label for part in _parts(classes, named, names) for label in _labels_of(part, named, names)}
    else:
        chosen = set(classes)
    if not chosen:
        raise UserError(f"classes must choose at least one class, got {classes!r}")
    outside = sorted(chosen - allowed)
    if outside:
        raise UserError(f"classes must be among the {len(allowed)} opened ones, got {listed(outside)}")
    return sorted(chosen)


def place_finder(places: Mapping[str, int]) -> Callable[[str], int | None]:
    """What finds the place of a name, spelled as in `matched`; None where there is none."""
    by_form = {form: places[alike[0]] for form, alike in _by_form(places).items() if len(alike) == 1}
    return lambda name: places[name] if name in places else by_form.get(_form(name))


def matched(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Find which known name each name is: the very same, or else the only one that is written the same.

    File systems spell accents as one character or as two (Unicode's forms NFC and NFD); and a name that is
    not UTF-8 is written with `printable` where text is wanted.

    Args:
        names: Some names.
        known: Names that they may be.

    Returns:
        Known names by name; without names that are none of them, or that could be several.
    """
    unknown = dict.fromkeys(names)
    others = dict.fromkeys(known)
    found = {name: name for name in unknown if name in others}
    forms = _by_form(name for name in others if name not in found)
    for form, alike in _by_form(name for name in unknown if name not in found).items():
        if len(alike) == len(forms.get(form, ())) == 1:
            found[alike[0]] = forms[form][0]
    return found


def order_notes(names: Sequence[str]) -> list[str]:
    """A note where names with numbers in them, sorted as words, are not in the order of these numbers."""
    by_number = sorted(names, key=_by_number)
    place = next((place for place, name in enumerate(names) if name != by_number[place]), None)
    if place is None:
        return []
    return [
        f"classes are sorted as words, not as numbers ({listed(names)}): label {place} is {names[place]!r},"
        f" not {by_number[place]!r}"
    ]


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """What sorts names as words with their numbers as numbers."""
    parts = _NUMBER.split(name)
    return [(place % 2, int(part) if place % 2 else 0, part) for place, part in enumerate(parts)]


def _by_form(names: Iterable[str]) -> dict[str, list[str]]:
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(_form(name), []).append(name)
    return forms


def _form(name: str) -> str:
    return normalize("NFC", printable(name))


def _parts(text: str, named: Callable[[str], int | None], names: Sequence[str]) -> Iterator[str]:
    """Split at commas, except at those of class names ("tench, Tinca tinca")."""
    words = text.split(",")
    longest = 1 + max(name.count(",") for name in names)
    while words:
        joined = [",".join(words[:count]).strip() for count in range(min(longest, len(words)), 0, -1)]
        part = next((one for one in joined if named(one) is not None), joined[-1])
        del words[: 1 + part.count(",")]
        if part:
            yield part


def _labels_of(part: str, named: Callable[[str], int | None], names: Sequence[str]) -> Iterable[int]:
    label = named(part)
    if label is not None:
        return [label]
    span = _RANGE.fullmatch(part)
    if span or part.isdecimal():
        first, last = (int(span[1]), int(span[2])) if span else (int(part), int(part))
        if first <= last < len(names):
            return range(first, last + 1)
        raise UserError(f"classes must be indices within 0..{len(names) - 1}, ranges ascending, got {part!r}")
    near = get_close_matches(part, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else f", such as {names[0]!r}"
    raise UserError(f"classes must be class names, indices or ranges, got {part!r}{hint}")
