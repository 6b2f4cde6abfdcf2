"""Datasets that can only be read from front to back, their classes mixed: a download, a pipe, parquet files.

Nothing is known of the images of such a dataset before it was read once; what that reading found (the
class, name and place of every image) is kept, and from then on the dataset opens like any other.

Shape letters: n images, N classes, L bytes of all names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mgd3_engine.cache import cache_dir_or_default
from mgd3_fast.datasets.class_names import check_classes
from mgd3_fast.datasets.dataset import Dataset, ImageClass
from mgd3_fast.datasets.decoding import decode_image
from mgd3_fast.datasets.file_list import FileList
from mgd3_fast.datasets.images import ListedImages
from mgd3_fast.errors import UserError
from mgd3_fast.tensor_files import open_if_whole, save_tensors

_FORMAT = "mgd3-fast stream index 1"


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

    def read(self, shard: int, start: int = 0) -> Iterator[StreamedImage]:
        """Images of one shard, from a row on."""
        ...


@dataclass(frozen=True)
class StreamIndex:
    """What one reading of a stream found, class after class in label order.

    Args:
        class_names: The full class list.
        counts: int64 [N], images of each class.
        files: Names and sizes of the images.
        shards: int64 [n], which shard holds each image.
        rows: int64 [n], where in it.
    """

    class_names: tuple[str, ...]
    counts: NDArray[np.int64]
    files: FileList
    shards: NDArray[np.int64]
    rows: NDArray[np.int64]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 [N], where the images of each class start."""
        return np.cumsum(self.counts) - self.counts


class StreamedImages(ListedImages):
    """Images of one class of a stream that was read before.

    Args:
        stream: Where they come from.
        files: Names and sizes.
        shards: int64 [n], which shard holds each.
        rows: int64 [n], where in it.
    """

    def __init__(
        self, stream: ImageStream, files: FileList, shards: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        super().__init__(files)
        self.stream, self.shards, self.rows = stream, shards, rows

    def location(self, position: int) -> str:
        """The dataset and the image in it."""
        return f"{self.stream.location}: {self.name(position)}"

    def load(self, position: int) -> Image.Image:
        """Read one image as RGB: reads its shard up to it, so this is for a few images only.

        Raises:
            BadImageError: It is damaged.
            UserError: The stream has changed since it was read.
        """
        shard, row = int(self.shards[position]), int(self.rows[position])
        found = next(iter(islice(self.stream.read(shard, row), 1)), None)
        if found is None or found.name != self.name(position):
            raise UserError(f"{self.stream.location} must be as it was when it was encoded, got changed")
        return decode_image(found.content)

    def cache_key(self) -> str:
        """Hex sha256 that also covers the stream's identity."""
        return hashlib.sha256(f"{self.stream.identity}\n{self.content_key()}".encode()).hexdigest()


def indexed_dataset(
    stream: ImageStream, index: StreamIndex, classes: str | None, split: str, *, allow_empty: bool = False
) -> Dataset:
    """Open a stream that was read before.

    Args:
        stream: The stream.
        index: What reading it found.
        classes: Selector of `--classes`; all by default.
        split: "train", "val" or "test".
        allow_empty: Whether opened classes may have no images.

    Returns:
        The dataset; its `stream` is set.

    Raises:
        UserError: An opened class has no image.
    """
    found = []
    for label, name in enumerate(index.class_names):
        start = int(index.starts[label])
        stop = start + int(index.counts[label])
        images = StreamedImages(
            stream, index.files.part(start, stop), index.shards[start:stop], index.rows[start:stop]
        )
        found.append(ImageClass(name, label, images))
    dataset = Dataset(stream.name, tuple(found), index.class_names, split, stream.location, stream=stream)
    dataset = dataset if classes is None else dataset.subset(classes)
    if not allow_empty:
        check_classes(dataset)
    return dataset


def index_path(stream: ImageStream, cache_dir: Path | str | None) -> Path:
    """Where the index of a stream is kept."""
    return cache_dir_or_default(cache_dir) / "indexes" / f"stream-{stream.identity[:32]}.safetensors"


def read_index(path: Path) -> StreamIndex | None:
    """Read what `write_index` wrote; None where there is nothing, or only a damaged file."""
    file = open_if_whole(path)
    if file is None:
        return None
    arrays = {name: tensor.numpy() for name, tensor in file.tensors.items()}
    no_times = np.zeros(len(arrays["sizes"]), dtype=np.int64)
    files = FileList(arrays["names"], arrays["ends"], arrays["sizes"], no_times)
    names = tuple(file.metadata["class_names"].split("\n"))
    return StreamIndex(names, arrays["counts"], files, arrays["shards"], arrays["rows"])


def write_index(path: Path, index: StreamIndex) -> None:
    """Keep an index for later runs.

    Raises:
        OSError: The folder cannot be written.
    """
    arrays = {
        "counts": index.counts,
        "ends": index.files.ends,
        "sizes": index.files.sizes,
        "shards": index.shards,
        "rows": index.rows,
        "names": index.files.names,
    }
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, {"format": _FORMAT, "class_names": "\n".join(index.class_names)})
