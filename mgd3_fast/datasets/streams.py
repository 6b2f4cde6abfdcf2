"""Datasets that can only be read from front to back, classes mixed: a download, a pipe, parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple, Protocol

from mgd3_fast.datasets.class_names import LabelIndex
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
    """A dataset in shards, each of which is read from front to back.

    Attributes:
        name: What the dataset is called in manifests.
        location: Where it is, for messages.
        shards: Names of the shards.
        class_names: Names in label order, or None where only the labels of the images tell.
        num_images: Number of its images, where somebody has counted them.
    """

    name: str
    location: str
    shards: Sequence[str]
    class_names: tuple[str, ...] | None
    num_images: int | None

    @property
    def identity(self) -> str:
        """Hex sha256 of all that decides what is read: files, their sizes and versions, columns."""
        ...

    def shard_key(self, shard: int) -> str:
        """Hex sha256 of all that decides what is read of one shard, class names included."""
        ...

    def read(self, shard: int, start: int = 0) -> Iterator[StreamedImage]:
        """Images of one shard in its order, from a row on.

        Raises:
            UserError: It cannot be opened or read to its end, or lacks a label.
        """
        ...


class StreamShard(Shard):
    """One shard of a stream; its count and the digest of its rows are known where it was read before."""

    is_listed = False

    def __init__(
        self,
        stream: ImageStream,
        number: int,
        labels: LabelIndex,
        count: int | None = None,
        digest: str | None = None,
    ) -> None:
        self._stream, self._number, self._labels = stream, number, labels
        self.name, self.title = stream.shards[number], stream.location
        self.count, self.digest = count, digest

    @cached_property
    def key(self) -> str:
        """See `ImageStream.shard_key`."""
        return self._stream.shard_key(self._number)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """The shard's images, from one on; a `UserError` where it breaks off or a label is no class."""
        for image in self._stream.read(self._number, start):
            named = self._labels.named(image.label, self.location(image.row, image.name))
            read, load = partial(bytes, image.content), partial(decode_image, image.content)
            yield Row(image.row, image.name, image.label, *named, len(image.content), read, load)

    def location(self, number: int, name: str) -> str:
        """The dataset and the image in it."""
        return f"{self._stream.location}: {name}"

    def read(self, number: int, name: str) -> bytes:
        """Bytes of one image's file: reads the shard up to it, so this is for a few images only.

        Raises:
            UserError: The stream has changed since it was read.
        """
        found = next(islice(self._stream.read(self._number, number), 1), None)
        if found is None or found.name != name:
            raise UserError(f"{self._stream.location} has changed since it was encoded: encode it again")
        return found.content


def split_options(spec: str, allowed: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split `KIND:SOURCE[#KEY=VALUE,...]` into source and options; the last `#` starts the options.

    Raises:
        UserError: Nothing is named, or an option is unknown, twice there or without a value.
    """
    kind, _, rest = spec.partition(":")
    source, mark, tail = rest.rpartition("#") if "#" in rest else (rest, "", "")
    if not source:
        raise UserError(f"dataset must name something after {kind}:, got {spec!r}")
    options: dict[str, str] = {}
    for part in tail.split(",") if mark else ():
        key, _, value = part.partition("=")
        if key not in allowed or not value or key in options:
            raise UserError(
                f"dataset options must be {', '.join(f'{one}=...' for one in allowed)}, each once, "
                f"got {part!r} in {spec!r}"
            )
        options[key] = value
    return source, options
