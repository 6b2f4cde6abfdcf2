"""What a check finds: how bad it is, what it is, which pictures or classes, and what deals with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

SEVERITIES = {
    "error": "errors, which stop a run",
    "warning": "warnings, which spoil results",
    "note": "notes",
}
"""From the worst down, with their headings."""

MOST_NAMED = 1000
"""Names that a finding keeps at most."""


@dataclass(frozen=True)
class Finding:
    """One finding.

    Args:
        severity: One of `SEVERITIES`.
        about: A word that programs know it by.
        text: What it is, in one line.
        count: Of pictures or classes.
        advice: Option or step that deals with it; empty where nothing need be done.
        names: Which, at most `MOST_NAMED` of them.
    """

    severity: str
    about: str
    text: str
    count: int
    advice: str = ""
    names: tuple[str, ...] = field(default=())


def first_of(names: Iterable[str]) -> tuple[str, ...]:
    """As many names as a finding keeps."""
    return tuple(islice(names, MOST_NAMED))


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, in their order otherwise."""
    order = list(SEVERITIES)
    return sorted(findings, key=lambda one: order.index(one.severity))


def some(count: int, total: int, what: str = "pictures") -> str:
    """Say a part of a whole: "12 of 410 pictures (2.9%)"."""
    return f"{count:,} of {total:,} {what} ({percent(count / total)})"


def percent(share: float) -> str:
    """A share as per cent, with a decimal where it is near none or all."""
    return f"{100 * share:.1f}%" if share < 0.1 or 0.99 < share < 1 else f"{100 * share:.0f}%"
