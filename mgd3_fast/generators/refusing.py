"""One line for settings and weights that do not fit together, whatever a library says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mgd3_fast.errors import UserError


@contextmanager
def complete_or_refused(folder: Path, class_name: str) -> Iterator[None]:
    """Turn whatever a library says of settings and weights that do not fit together into one line.

    Args:
        folder: Of the model, for the message.
        class_name: What it was to be.

    Raises:
        UserError: The body raised what a library raises then.
    """
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{folder} must be a complete {class_name}, got: {' '.join(lines[:2])[:300]}"
        ) from None
