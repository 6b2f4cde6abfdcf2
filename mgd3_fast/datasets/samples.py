"""What a WebDataset shard means: neighbours of one key are a sample, with an image and a label."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from mgd3_fast.datasets.folders import IMAGE_SUFFIXES, suffix_of
from mgd3_fast.datasets.tars import Member
from mgd3_fast.errors import UnlabelledError, UserError, listed

_LABEL_KINDS = ("cls", "json")
_JSON_KEYS = ("cls", "label")
_IMAGE_KINDS = tuple(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES)


class Sample(NamedTuple):
    """Members with one key: an image and its label."""

    image: Member
    label: str


def samples(members: Iterator[Member], where: str, left_out: Counter[str] | None = None) -> Iterator[Sample]:
    """Group neighbours of one key, as the library does: the name up to the first dot of its last part.

    What a member is its last suffix tells: `a/b.c.JPG` is an image of the sample `a/b`.

    Args:
        members: Files of a shard; labels with their contents.
        where: The shard, for messages.
        left_out: Receives, by suffix, the number of files that are neither the image nor a label.

    Yields:
        Samples in the shard's order; files whose names start with `__` or a dot belong to none.

    Raises:
        UserError: A sample lacks image or label, or has two that it could be.
    """
    named = (member for member in members if not _last_part(member.name).startswith(("__", ".")))
    for key, group in groupby(named, key=lambda member: _key_and_extension(member.name)[0]):
        by_extension: dict[str, Member] = {}
        for member in group:
            extension = _key_and_extension(member.name)[1]
            if extension in by_extension and is_read(member.name):
                raise UserError(f"sample {key} of {where} holds {extension} twice")
            by_extension[extension] = member
        sample = f"sample {key} of {where}"
        image = _one_of(_IMAGE_KINDS, by_extension, sample)
        if image is None:
            kinds = " ".join(_IMAGE_KINDS)
            raise UserError(f"{sample} holds no image ({kinds}), only {listed(by_extension)}")
        if left_out is not None:
            others = (member.name for member in by_extension.values() if member is not image)
            left_out.update(suffix_of(name) for name in others if not is_label(name))
        yield Sample(image, _label(by_extension, sample))


def is_label(name: str) -> bool:
    """Whether a file holds a label."""
    return _kind(name) in _LABEL_KINDS


def is_read(name: str) -> bool:
    """Whether a file holds an image or a label."""
    return _kind(name) in (*_LABEL_KINDS, *_IMAGE_KINDS)


def _one_of(kinds: Sequence[str], by_extension: dict[str, Member], sample: str) -> Member | None:
    """The member whose extension is the first of some kinds that is there, or else ends in it."""
    whole = next((by_extension[kind] for kind in kinds if kind in by_extension), None)
    if whole is not None:
        return whole
    ending = [name for kind in kinds for name in by_extension if name.endswith(f".{kind}")]
    if len(ending) > 1:
        raise UserError(
            f"{sample} must hold only one of {listed(ending)}: files whose names are equal up to the"
            " first dot are one sample"
        )
    return by_extension[ending[0]] if ending else None


def _label(by_extension: dict[str, Member], sample: str) -> str:
    for kind in _LABEL_KINDS:
        member = _one_of((kind,), by_extension, sample)
        text = (member.content or b"").decode("utf-8", "replace").strip() if member else ""
        label = _json_label(text) if kind == "json" else text
        if label:
            return label
    kinds = f"cls, or json with {' or '.join(_JSON_KEYS)}"
    raise UnlabelledError(f"{sample} holds no label ({kinds}), only {listed(by_extension)}")


def _json_label(text: str) -> str:
    try:
        content = json.loads(text)
    except ValueError:
        return ""
    for key in _JSON_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), (int, str)):
            return str(content[key])
    return ""


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _key_and_extension(name: str) -> tuple[str, str]:
    last = _last_part(name)
    stem, _, extension = last.partition(".")
    return name[: len(name) - len(last)] + stem, extension.lower()


def _kind(name: str) -> str:
    return _key_and_extension(name)[1].rpartition(".")[2]
