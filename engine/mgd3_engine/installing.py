"""How to install packages that only some commands need."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

_DISTRIBUTION = "mgd3-fast"


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra, such as "pip install 's3fs>=2025.3'".

    They are named one by one: `mgd3-fast[s3]` could be installed only from an index that has a release.
    """
    packages = " ".join(f"'{one}'" for one in dict.fromkeys(_packages(extra)))
    return f"pip install {packages}" if packages else f"pip install '.[{extra}]' in the checkout of mgd3-fast"


def _packages(extra: str) -> Iterator[str]:
    """As the installed metadata has them: none where it is missing, or older than the code."""
    try:
        stated = [Requirement(line) for line in requires(_DISTRIBUTION) or []]
    except PackageNotFoundError:
        return
    for one in stated:
        marker, one.marker = one.marker, None
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        if one.name == _DISTRIBUTION:
            for other in sorted(one.extras):
                yield from _packages(other)
        else:
            yield str(one)
