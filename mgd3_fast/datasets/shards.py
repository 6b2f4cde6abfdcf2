"""What is encoded in one go: a class folder, or a file of images of mixed classes.

Shape letters: n images of a class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mgd3_fast.datasets.dataset import Dataset, ImageClass
from mgd3_fast.datasets.decoding import decode_image
from mgd3_fast.datasets.images import FileList, ListedImages


class Row(NamedTuple):
    """One image of a shard, not decoded yet.

    Args:
        number: Its place in the shard, from 0.
        name: A name that tells it from the others of its class.
        label: Its class as the source writes it.
        class_name: Name of its class.
        class_label: Place of its class in the class list; None where the list is not known, or all images of
            the shard are of one class.
        size: Bytes of the image file, 0 where there is none.
        read: Gives its bytes, of a PNG where there is no file; may raise `BadImageError`.
        load: Decodes it; may raise `BadImageError`.
    """

    number: int
    name: str
    label: str
    class_name: str
    class_label: int | None
    size: int
    read: Callable[[], bytes]
    load: Callable[[], Image.Image]


class Shard(ABC):
    """Images that are read, encoded and stored together.

    Attributes:
        name: Names its files.
        title: What messages call it.
        count: Its images, where they are counted.
        digest: Of its rows when it was read first, where the key cannot see that it has changed.
        is_listed: Whether its images are known without reading it.
        in_memory: Whether loading reads no file.
        is_remote: Whether loading waits for a network.
    """

    name: str
    title: str
    count: int | None
    digest: str | None = None
    is_listed = True
    in_memory = False
    is_remote = False

    @property
    @abstractmethod
    def key(self) -> str:
        """Hex sha256 of all that decides which images are read."""

    @abstractmethod
    def rows(self, start: int = 0) -> Iterator[Row]:
        """Its images in order, from one on."""

    @abstractmethod
    def location(self, number: int, name: str) -> str:
        """Where an image lies, for messages."""

    @abstractmethod
    def read(self, number: int, name: str) -> bytes:
        """Bytes of an image's file, of a PNG where there is none."""

    def load(self, number: int, name: str) -> Image.Image:
        """Read one image as `decode_image` does."""
        return decode_image(self.read(number, name))

    def readers(self, number: int, name: str) -> tuple[Callable[[], bytes], Callable[[], Image.Image]]:
        """`read` and `load` of one image, as a `Row` holds them."""
        return partial(self.read, number, name), partial(self.load, number, name)


class ClassShard(Shard):
    """A class as a shard of its own: all its rows have one label."""

    def __init__(self, cls: ImageClass) -> None:
        self._cls = cls
        self.name, self.title = cls.name, f"class {cls.name}"
        self.count = len(cls)
        self.in_memory, self.is_remote = cls.images.in_memory, cls.images.is_remote

    @property
    def key(self) -> str:
        """Hex sha256 of class name, image names, sizes and times; label and dataset are not in it."""
        return self._cls.cache_key

    def rows(self, start: int = 0) -> Iterator[Row]:
        """The class's images, from one on."""
        cls, images = self._cls, self._cls.images
        for number in range(start, len(cls)):
            name, size = images.name(number), images.size(number)
            yield Row(number, name, cls.name, cls.name, None, size, *self.readers(number, name))

    def location(self, number: int, name: str) -> str:
        """Where an image lies."""
        return self._cls.images.location(number)

    def read(self, number: int, name: str) -> bytes:
        """Bytes of an image's file."""
        return self._cls.images.read(number)

    def load(self, number: int, name: str) -> Image.Image:
        """Read one image."""
        return self._cls.images.load(number)


class ShardImages(ListedImages):
    """Images of one class that lie in shards of mixed classes.

    Args:
        files: Names and sizes, in the order of the shards.
        shards: All shards of the dataset.
        shard_of: int64 [n], which of them holds each image; ascending.
        rows: int64 [n], where in it; ascending within a shard.
    """

    def __init__(
        self, files: FileList, shards: Sequence[Shard], shard_of: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        super().__init__(files)
        self.shards, self.shard_of, self.rows = shards, shard_of, rows

    def location(self, position: int) -> str:
        """The shard and the image in it."""
        shard: Shard = self.shards[self.shard_of[position]]
        return shard.location(int(self.rows[position]), self.name(position))

    def read(self, position: int) -> bytes:
        """Bytes of an image's file; see `Shard.read`."""
        shard: Shard = self.shards[self.shard_of[position]]
        return shard.read(int(self.rows[position]), self.name(position))


def has_mixed_shards(dataset: Dataset) -> bool:
    """Whether the images of a dataset lie in shards of mixed classes."""
    return bool(dataset.classes) and isinstance(dataset.classes[0].images, ShardImages)


def shards_of(dataset: Dataset) -> Sequence[Shard]:
    """The shards that hold a dataset's images: those of its source, or its classes."""
    images = dataset.classes[0].images if dataset.classes else None
    return images.shards if isinstance(images, ShardImages) else [ClassShard(cls) for cls in dataset.classes]


def rows_of(cls: ImageClass) -> Iterator[tuple[Shard, int, NDArray[np.int64]]]:
    """Where a class lies: shards, position of the first image of each in the class, rows of them all."""
    images = cls.images
    if not isinstance(images, ShardImages):
        yield ClassShard(cls), 0, np.arange(len(cls), dtype=np.int64)
        return
    numbers, starts = np.unique(images.shard_of, return_index=True)
    for number, start, stop in zip(numbers, starts, [*starts[1:], len(images)], strict=True):
        yield images.shards[number], int(start), images.rows[start:stop]
