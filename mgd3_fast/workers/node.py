"""What a driver and the nodes of its workers must agree on before any work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mgd3_fast.errors import UserError, listed


class Driver(NamedTuple):
    """What a worker takes over of its driver.

    Args:
        folder: The current one, to which relative paths belong.
        environment: Variables by name.
        tokens: Files that the worker must see, because it shares their folders with all others.
    """

    folder: str
    environment: dict[str, str]
    tokens: Sequence[Path]


class Facts(NamedTuple):
    """What a worker says of itself before it is given anything.

    Args:
        node: Name of its machine.
        gpu: Model of its GPU, if it has one.
        versions: Of packages, by name.
        unseen: Tokens that it does not see.
    """

    node: str
    gpu: str | None
    versions: dict[str, str]
    unseen: tuple[Path, ...] = ()


def check_fit(found: Facts, ours: Mapping[str, str], gpu: str | None) -> Iterator[str]:
    """Refuse a worker that would do harm, and say what of it may change pixels.

    Args:
        found: The worker.
        ours: Versions of packages here.
        gpu: Model of the GPU of the workers before it, if any.

    Yields:
        Warnings.

    Raises:
        UserError: It has another version of mgd3-fast, or does not see a folder.
    """
    theirs = found.versions
    mine, its = (versions.get("mgd3-fast", "that is not installed") for versions in (ours, theirs))
    if its != mine:
        raise UserError(f"nodes must have the mgd3-fast of this machine, {mine}, got {its} on {found.node}")
    for token in found.unseen:
        # One that is gone here too went with the working state of a run that is complete.
        if token.exists():
            raise UserError(
                f"nodes must see {token.parent}, but {found.node} does not: name a folder that they share"
            )
    others = [
        f"{name} {theirs.get(name)}, not {ours[name]}" for name in ours if theirs.get(name) != ours[name]
    ]
    if others:
        yield f"{found.node} has {listed(others)}: pixels may differ by a level"
    if gpu not in (None, found.gpu):
        yield f"GPUs differ, {gpu} and {found.gpu}: between them pixels may differ by a level"
