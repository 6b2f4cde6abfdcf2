"""Images split into files of about one size."""

from __future__ import annotations

from collections.abc import Sequence

from mgd3_fast.writers.labelled import LabelledImage

_MIB = 1 << 20


def split_by_size(images: Sequence[LabelledImage], shard_mib: int) -> list[Sequence[LabelledImage]]:
    """Split images into consecutive runs.

    Args:
        images: At least one.
        shard_mib: Most MiB of image bytes in a run; an image larger than that has a run of its own.

    Returns:
        The runs, none of them empty.
    """
    starts, filled = [0], 0
    for place, image in enumerate(images):
        size = image.size
        if place > starts[-1] and filled + size > shard_mib * _MIB:
            starts.append(place)
            filled = 0
        filled += size
    return [images[start:stop] for start, stop in zip(starts, [*starts[1:], len(images)], strict=True)]
