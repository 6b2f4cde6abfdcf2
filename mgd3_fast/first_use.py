"""Names of a package that are loaded on first use: what they need, the command line's help comes without."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def loaded_on_first_use(package: str, **homes: str) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package.

    Args:
        package: Its `__name__`.
        homes: The module that each name is in.

    Returns:
        What Python calls for a name that the package does not have yet.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return load
