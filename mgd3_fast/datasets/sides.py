"""How large the pictures of a dataset are, told by some of them."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import accumulate, islice

from PIL import Image

from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.decoding import BadImageError, decode_image

LARGEST_SIDE, _SMALLEST_POWER = 256, 32
_MOST_LOOKED_AT = 64


def some_places(count: int) -> list[int]:
    """At most 64 places of 0..count-1, evenly spread."""
    looked_at = min(count, _MOST_LOOKED_AT)
    return [number * count // looked_at for number in range(looked_at)]


def median_side(loads: Iterable[Callable[[], Image.Image]]) -> int:
    """Median of the shorter sides of pictures in pixels, the lower one of two.

    Args:
        loads: Reads each picture; those that are bad are left out, and where all are, it is 256.
    """
    sides = []
    for load in loads:
        with suppress(BadImageError):
            sides.append(min(load().size))
    return statistics.median_low(sides or [LARGEST_SIDE])


def sensible_side(dataset: Dataset) -> int:
    """Choose the side in pixels that suits a dataset whose pictures are of any size.

    The largest power of two from 32 to 256 that is no larger than the median of the shorter sides of some
    pictures; below 32, that median.

    Raises:
        BadImageError: All pictures that were looked at are bad.
    """
    side = min(median_side(_some_loads(dataset)), LARGEST_SIDE)
    return side if side < _SMALLEST_POWER else 1 << (side.bit_length() - 1)


def _some_loads(dataset: Dataset) -> Iterator[Callable[[], Image.Image]]:
    """What reads some pictures: evenly spread ones, or the first ones of a stream."""
    if dataset.stream is not None:
        for image in islice(dataset.stream.read(0), _MOST_LOOKED_AT):
            yield partial(decode_image, image.content)
        return
    stops = list(accumulate(map(len, dataset.classes)))
    for place in some_places(len(dataset)):
        number = bisect_right(stops, place)
        images = dataset.classes[number].images
        yield partial(images.load, place - stops[number] + len(images))
