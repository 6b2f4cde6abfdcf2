"""Datasets that can only be read from front to back, classes mixed: a download, a pipe, parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple, Protocol

from PIL import Image

from mgd3_fast.datasets.class_names import LabelIndex, UnknownLabels
from mgd3_fast.datasets.decoding import decode_image
from mgd3_fast.datasets.shards import Row, Shard
from mgd3_fast.errors import UserError


class StreamedImage(NamedTuple):
    """One image of a stream.

    Args:
        row: Its place in its shard, from 0.
        name: A name that tells it from the others of the stream.
        label: Its class as the stream writes it: an index ("7") or a name.
        content: The image file's bytes.
    """

    row: int
    name: str
    label: str
    content: bytes


class ImageStream(Protocol):
    """A dataset in shards, each of which is read from front to back."""

    @property
    def name(self) -> str:
        """What the dataset is called in manifests."""
        ...

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        ...

    @property
    def identity(self) -> str:
        """Hex sha256 of all that decides what is read: files, their sizes and versions, columns."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names in label order, or None where only the labels of the images tell."""
        ...

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards."""
        ...

    @property
    def num_images(self) -> int | None:
        """Number of its images, where somebody has counted them."""
        ...

    def shard_key(self, shard: int) -> str:
        """Hex sha256 of all that decides what is read of one shard, class names included."""
        ...

    def read(self, shard: int, start: int = 0) -> Iterator[StreamedImage]:
        """Images of one shard, from a row on."""
        ...


class StreamShard(Shard):
    """One shard of a stream.

    Args:
        stream: The stream.
        number: Which of its shards.
        labels: Finds the classes of labels.
        count: Its images, where it was read before.
        digest: Of its rows, where it was read before.
    """

    is_listed = False

    def __init__(
        self,
        stream: ImageStream,
        number: int,
        labels: LabelIndex | UnknownLabels,
        *,
        count: int | None = None,
        digest: str | None = None,
    ) -> None:
        self._stream, self._number, self._labels = stream, number, labels
        self.name, self.title = stream.shards[number], stream.location
        self.count, self.digest = count, digest

    @cached_property
    def key(self) -> str:
        """As of `ImageStream.shard_key`."""
        return self._stream.shard_key(self._number)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """The shard's images, from one on.

        Raises:
            UserError: The stream broke off, or a label is none of its classes.
        """
        for image in self._stream.read(self._number, start):
            class_name, class_label = self._labels.named(image.label, self.location(image.row, image.name))
            load = partial(decode_image, image.content)
            size = len(image.content)
            yield Row(image.row, image.name, image.label, class_name, class_label, size, load)

    def location(self, number: int, name: str) -> str:
        """The dataset and the image in it."""
        return f"{self._stream.location}: {name}"

    def load(self, number: int, name: str) -> Image.Image:
        """Read one image as RGB: reads the shard up to it, so this is for a few images only.

        Raises:
            BadImageError: It is damaged.
            UserError: The stream has changed since it was read.
        """
        found = next(iter(islice(self._stream.read(self._number, number), 1)), None)
        if found is None or found.name != name:
            raise UserError(f"{self._stream.location} must be as it was when it was encoded, got changed")
        return decode_image(found.content)
