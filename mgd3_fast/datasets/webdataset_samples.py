"""What a WebDataset shard means: neighbours of one key are a sample, with an image and a label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from mgd3_fast.datasets.scanning import IMAGE_SUFFIXES
from mgd3_fast.datasets.tars import Member
from mgd3_fast.errors import UserError

_LABEL_EXTENSIONS = ("cls", "json")
_JSON_KEYS = ("cls", "label")
_IMAGE_EXTENSIONS = tuple(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES)


class Sample(NamedTuple):
    """Members with one key: an image and its label."""

    image: Member
    label: str


def samples(members: Iterator[Member], where: str) -> Iterator[Sample]:
    """Group neighbours of one key, as the library does: the name up to the first dot of its last part.

    Args:
        members: Files of a shard; labels with their contents.
        where: The shard, for messages.

    Yields:
        Samples in the shard's order; files whose names start with `__` or a dot belong to none.

    Raises:
        UserError: A sample lacks image or label.
    """
    named = (member for member in members if not PurePosixPath(member.name).name.startswith(("__", ".")))
    for key, group in groupby(named, key=lambda member: _key_and_extension(member.name)[0]):
        by_extension = {_key_and_extension(member.name)[1]: member for member in group}
        image = next((by_extension[one] for one in _IMAGE_EXTENSIONS if one in by_extension), None)
        if image is None:
            kinds = ", ".join(by_extension)
            raise UserError(
                f"samples must have an image ({' '.join(_IMAGE_EXTENSIONS)}), "
                f"got {key} with {kinds} in {where}"
            )
        yield Sample(image, _label(by_extension, key, where))


def _label(members: dict[str, Member], key: str, where: str) -> str:
    for extension in _LABEL_EXTENSIONS:
        if extension in members:
            text = (members[extension].content or b"").decode("utf-8", "replace").strip()
            label = _json_label(text) if extension == "json" else text
            if label:
                return label
    raise UserError(
        f"samples must have a label (cls, or json with {' or '.join(_JSON_KEYS)}), "
        f"got {key} with {', '.join(members)} in {where}"
    )


def _json_label(text: str) -> str:
    try:
        content = json.loads(text)
    except ValueError:
        return ""
    for key in _JSON_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), (int, str)):
            return str(content[key])
    return ""


def _key_and_extension(name: str) -> tuple[str, str]:
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def is_label(name: str) -> bool:
    """Whether a file holds a label."""
    return _key_and_extension(name)[1] in _LABEL_EXTENSIONS


def is_read(name: str) -> bool:
    """Whether a file holds an image or a label."""
    return is_label(name) or _key_and_extension(name)[1] in _IMAGE_EXTENSIONS
