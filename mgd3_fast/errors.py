"""The one exception a user's mistake raises: the CLI prints it in one line and exits with status 2."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake the user can mend; the message names what is wrong and what is allowed, in one line."""
