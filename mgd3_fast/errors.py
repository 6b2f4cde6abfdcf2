"""The two ways a run ends early that are nobody's bug, and messages that stay short whatever they list."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST_LINE = 400
OUR_PACKAGES = ("mgd3_fast", "mgd3_engine", "mgd3_kernels")
_MOST_LISTED, _LONGEST_NAME, _LONGEST_LIST = 5, 60, 120


class UserError(ValueError):
    """A mistake the user can mend; the message names what is wrong and what is allowed, in one line."""

    def __str__(self) -> str:
        return shortened(printable(super().__str__()))


class UnlabelledError(UserError):
    """An image of a dataset has no label, as test images often have none."""


def missing(what: str, extra: str) -> UserError:
    """Say what needs packages that are not installed, and the command that installs them."""
    from mgd3_engine.installing import install_command

    return UserError(f"{what}: {install_command(extra)}")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the message says in one line what is kept."""


def listed(names: Iterable[object]) -> str:
    """Say a list of any length in at most 140 characters: "ant, bee, cow, dog, eel and 995 more"."""
    words = [shortened(str(name), _LONGEST_NAME) for name in names]
    shown = words[:1]
    for word in words[1:_MOST_LISTED]:
        if len(", ".join([*shown, word])) > _LONGEST_LIST:
            break
        shown.append(word)
    more = f" and {len(words) - len(shown):,} more" if len(words) > len(shown) else ""
    return ", ".join(shown) + more


def shortened(text: str, most: int = LONGEST_LINE) -> str:
    """Leave out the middle of a long line: what is wrong is at its beginning, what to do at its end."""
    if len(text) <= most:
        return text
    end = (most - 5) // 3
    return f"{text[: most - 5 - end]} ... {text[-end:]}"


def printable(text: str) -> str:
    r"""Text for people, pages, tables and pictures: bytes of names that are not UTF-8 are written \xe9."""
    return re.sub("[\ud800-\udfff]", lambda one: rf"\x{ord(one[0]) & 0xFF:02x}", text)


def is_users_mistake(error: BaseException) -> bool:
    """Tell a mistake of the user from a bug.

    A `UserError` and an `OSError` (a missing file, a full disk) are the user's to mend, and so is a
    `ValueError` that one of our own checks raised; the same type out of a library's depths is a bug, and
    keeps its traceback.
    """
    if isinstance(error, (UserError, OSError)) or is_out_of_memory(error):
        return True
    trace = error.__traceback__
    if trace is None or not isinstance(error, (ValueError, ImportError)):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] in OUR_PACKAGES


def is_out_of_memory(error: BaseException) -> bool:
    """By name and words: torch, whose errors these are, need not be loaded to tell."""
    refused = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or refused
