"""How large the pictures of a dataset are, told by some of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice

from PIL import Image

from mgd3_fast.datasets.dataset import Dataset
from mgd3_fast.datasets.decoding import BadImageError, decode_image
from mgd3_fast.datasets.spreading import some_images
from mgd3_fast.datasets.streams import ImageStream

LARGEST_SIDE, _SMALLEST_POWER = 256, 32
MOST_LOOKED_AT = 64


def median_side(loads: Iterable[Callable[[], Image.Image]], fit: str = "crop") -> int:
    """Median of the sides in pixels of the squares that pictures have pixels for, the lower one of two.

    Args:
        loads: Reads each picture; those that are bad are left out, and where all are, it is 256.
        fit: "crop": the square's side is a picture's shorter one; "pad": its longer one.
    """
    side_of, sides = max if fit == "pad" else min, []
    for load in loads:
        with suppress(BadImageError):
            sides.append(side_of(load().size))
    return statistics.median_low(sides or [LARGEST_SIDE])


def sensible_side(dataset: Dataset) -> int:
    """Choose the side in pixels that suits a dataset whose pictures are of any size.

    The largest power of two from 32 to 256 that is no larger than the median of some pictures; below 32, that
    median. See `median_side`.

    Raises:
        BadImageError: All pictures that were looked at are bad.
    """
    side = min(median_side(some_loads(dataset), dataset.framing.fit), LARGEST_SIDE)
    return side if side < _SMALLEST_POWER else 1 << (side.bit_length() - 1)


def some_loads(opened: Dataset | ImageStream) -> Iterator[Callable[[], Image.Image]]:
    """What reads some pictures: evenly spread ones, or the first ones of a stream."""
    stream = opened.stream if isinstance(opened, Dataset) else opened
    if stream is not None:
        for image in islice(stream.read(0), MOST_LOOKED_AT):
            yield partial(decode_image, image.content)
    elif isinstance(opened, Dataset):
        for cls, place in some_images(opened, MOST_LOOKED_AT):
            yield partial(cls.images.load, place)
