"""Images as samples: what is said of each, their bytes, and their split into files of about one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mgd3_fast.errors import printable
from mgd3_fast.progress import Bar
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage
from mgd3_fast.writers.reader import read_ahead

_MIB = 1 << 20


def described(image: LabelledImage, **more: object) -> dict[str, Any]:
    """What is known of an image; `more` comes after its class."""
    named = {"label": image.label, "class": image.class_name, **more, "index": image.index}
    return {**named, "sha256": image.sha256, **image.facts}


def class_list(source: LabelledFolder) -> list[str]:
    """Names of all classes in label order, for readers that take no missing name and no broken one."""
    return [
        f"unnamed-{label:05d}" if name is None else printable(name) for label, name in enumerate(source.names)
    ]


def contents(images: Sequence[LabelledImage], bar: Bar) -> Iterator[tuple[LabelledImage, bytes]]:
    """Images with the bytes of their files, which are read ahead; a bar is advanced by each."""
    for pair in zip(images, read_ahead(images, LabelledImage.content), strict=True):
        yield pair
        bar.advance()


def split_by_size(images: Sequence[LabelledImage], shard_mib: int) -> list[Sequence[LabelledImage]]:
    """Split images into consecutive runs, none of them empty.

    Args:
        images: At least one.
        shard_mib: Most MiB of image bytes in a run; an image larger than that has a run of its own.
    """
    starts, filled = [0], 0
    for place, image in enumerate(images):
        size = image.size
        if place > starts[-1] and filled + size > shard_mib * _MIB:
            starts.append(place)
            filled = 0
        filled += size
    return [images[start:stop] for start, stop in zip(starts, [*starts[1:], len(images)], strict=True)]
