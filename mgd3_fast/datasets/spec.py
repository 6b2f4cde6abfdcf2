"""The options that a dataset's specification may carry: `hf:owner/name#image=picture,label=kind`."""

from __future__ import annotations

from collections.abc import Sequence

from mgd3_fast.errors import UserError


def split_options(spec: str, allowed: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split a specification into what it names and its options.

    Args:
        spec: `KIND:SOURCE[#KEY=VALUE,...]`; the last `#` starts the options.
        allowed: Names of the options of this kind.

    Returns:
        The source without kind, and the options.

    Raises:
        UserError: Nothing is named, or an option is unknown, twice there or without a value.
    """
    kind, _, rest = spec.partition(":")
    source, mark, tail = rest.rpartition("#") if "#" in rest else (rest, "", "")
    if not source:
        raise UserError(f"dataset must name something after {kind}:, got {spec!r}")
    options: dict[str, str] = {}
    for part in tail.split(",") if mark else ():
        key, _, value = part.partition("=")
        if key not in allowed or not value or key in options:
            raise UserError(
                f"dataset options must be {', '.join(f'{one}=...' for one in allowed)}, each once, "
                f"got {part!r} in {spec!r}"
            )
        options[key] = value
    return source, options
