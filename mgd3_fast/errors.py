"""The two ways a run ends early that are nobody's bug: a mistake the user can mend, and an interruption."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake the user can mend; the message names what is wrong and what is allowed, in one line."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the message says in one line what is kept."""
