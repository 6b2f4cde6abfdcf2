"""A stream read once, its image files kept in a nameless temporary file, so that each can be read again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import IO

from mgd3_fast.datasets import Dataset, ImageStream
from mgd3_fast.datasets.class_names import LabelIndex
from mgd3_fast.datasets.shard_index import ShardColumns, build_index
from mgd3_fast.datasets.streams import StreamShard
from mgd3_fast.errors import UserError
from mgd3_fast.progress import Progress


class _KeptShard(StreamShard):
    """A shard whose image files lie end to end in a file, from `starts[row]` to `starts[row + 1]`."""

    is_listed = True
    file: IO[bytes]
    starts: list[int]

    def read(self, number: int, name: str) -> bytes:
        """Bytes of an image's file."""
        start, stop = self.starts[number : number + 2]
        return os.pread(self.file.fileno(), stop - start, start)


def read_once(stream: ImageStream, classes: str | None, split: str, progress: Progress) -> Dataset:
    """Read a stream to its end.

    Args:
        stream: The stream; every image of it has a label.
        classes: Selector of `--classes`; all by default.
        split: What its split is called.
        progress: Receives a bar.

    Returns:
        A dataset whose images can be read in any order while this process runs.

    Raises:
        UserError: The stream broke off, a label is none of its classes, a class has no image, or there is no
            room for the files.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the dataset
    columns, starts = [], []
    with progress.stage(f"read {split}", total=stream.num_images, unit="img") as bar:
        for shard in range(len(stream.shards)):
            labels, names, ends = [], [], [file.tell()]
            for image in stream.read(shard):
                with _enough_room():
                    file.write(image.content)
                labels.append(image.label)
                names.append(image.name)
                ends.append(file.tell())
                bar.advance()
            sizes = [stop - start for start, stop in pairwise(ends)]
            columns.append(ShardColumns.of(labels, names, sizes))
            starts.append(ends)
    with _enough_room():
        file.flush()
    index = build_index(columns, stream.class_names, stream.location)
    label_index = LabelIndex(index.names, implied=stream.class_names is None)
    shards = []
    for number, of_shard in enumerate(starts):
        kept = _KeptShard(stream, number, label_index, count=len(of_shard) - 1)
        kept.file, kept.starts = file, of_shard
        shards.append(kept)
    return index.dataset(stream, shards, classes, split, is_stream=False)


@contextmanager
def _enough_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the images to test on do not fit into {tempfile.gettempdir()}: {error.strerror}"
            " (the variable TMPDIR names another folder)"
        ) from None
