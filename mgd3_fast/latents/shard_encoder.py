"""One shard of a stream to parts: read, decoded, mirrored, encoded, stored; all of it side by side.

Shape letters: B images of a batch, m latents of a part, C channels, h w latent size, R pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets import (
    BadImage,
    ImageStream,
    LoadedImage,
    StreamedImage,
    bad_image_error,
    decode_image,
    load_image,
    run_ahead,
)
from mgd3_fast.datasets.class_names import LabelIndex, plain_names
from mgd3_fast.datasets.read_ahead import read_ahead
from mgd3_fast.latents.flipping import flipped_image
from mgd3_fast.latents.job import Encoded, EncodeJob
from mgd3_fast.latents.stream_parts import BadRow, PartRows, StreamParts
from mgd3_fast.progress import Bar

# A part ends with this many latents (16 MiB of float32 for 4x32x32), or rows where few of them are chosen.
_PART_LATENTS = 1024
_PART_ROWS = 65536


class _Row(NamedTuple):
    """A row of a stream, its image decoded where its class is chosen."""

    row: int
    name: str
    label: str
    size: int
    image: LoadedImage | None


class ShardEncoder:
    """Encodes shards of a stream.

    Args:
        stream: The stream.
        job: How to encode.
        chosen: Labels of the classes to encode, None for all; other rows are noted alone.
        parts: Receives latents.
    """

    def __init__(
        self, stream: ImageStream, job: EncodeJob, chosen: frozenset[int] | None, parts: StreamParts
    ) -> None:
        self.encoded = Encoded()
        self._stream, self._job, self._chosen, self._parts = stream, job, chosen, parts
        names = stream.class_names
        self._names = None if names is None else plain_names(names)
        self._label_index = None if names is None else LabelIndex(names)

    def run(self, shard: int, first_row: int, bar: Bar) -> None:
        """Encode a shard from a row on, part by part.

        Args:
            shard: Its number.
            first_row: First row that is not stored.
            bar: Counts rows.

        Raises:
            UserError: A bad image under "error", a label out of range, or the stream broke off.
        """
        depth = 2 * self._job.rows
        with closing(read_ahead(self._stream.read(shard, first_row), depth)) as images:
            jobs = (partial(self._load, image) for image in images)
            with closing(run_ahead(jobs, self._job.num_workers, depth)) as rows:
                ended = False
                while not ended:
                    count, ended = self._encode_part(shard, first_row, rows, bar)
                    first_row += count

    def _load(self, image: StreamedImage) -> _Row:
        """Decode one image; runs on a worker thread."""
        loaded = None
        if self._is_chosen(image):
            name = self._class_name(image.label)
            decode = partial(decode_image, image.content)
            loaded = load_image(name, 0, image.row, image.name, self._job.store.resolution, decode)
        return _Row(image.row, image.name, image.label, len(image.content), loaded)

    def _encode_part(self, shard: int, first_row: int, rows: Iterator[_Row], bar: Bar) -> tuple[int, bool]:
        """Store the next part; returns its rows and whether the shard ends with it."""
        part, latent_rows, ended = PartRows(), list[int](), True

        def batches() -> Iterator[Tensor]:
            nonlocal ended
            pixels: list[NDArray[np.uint8]] = []
            for row in rows:
                part.add(row.label, row.name, row.size)
                for image in self._usable(row, part):
                    pixels.append(image)
                    latent_rows.append(row.row)
                if len(pixels) == self._job.rows:
                    yield torch.from_numpy(np.stack(pixels))  # [B, 3, R, R]
                    pixels = []
                if not pixels and (len(latent_rows) >= _PART_LATENTS or len(part) >= _PART_ROWS):
                    ended = False
                    return
            if pixels:
                yield torch.from_numpy(np.stack(pixels))

        encoder, dtype = self._job.encoder, self._job.store.storage_dtype
        latents = [torch.empty(0, *encoder.shape, dtype=dtype)]
        seen = 0
        for encoded in encoder.run(batches(), self._job.rows, self._stream.location):
            latents.append(encoded.to(dtype))
            bar.advance(len(part) - seen)
            seen = len(part)
        bar.advance(len(part) - seen)
        stored = torch.cat(latents)  # [m, C, h, w]
        self._parts.write(shard, first_row, part, stored, latent_rows, ended)
        self.encoded.images += len(set(latent_rows)) + len(part.bad)
        self.encoded.bytes_written += stored.nbytes
        return len(part), ended

    def _usable(self, row: _Row, part: PartRows) -> Iterator[NDArray[np.uint8]]:
        if row.image is None:
            return
        if isinstance(row.image.pixels, BadImage):
            reason = row.image.pixels.reason
            if self._job.on_bad_image == "error":
                raise bad_image_error(f"{self._stream.location}: {row.name}", reason)
            part.bad.append(BadRow(row.row, row.name, reason))
            return
        name = self._class_name(row.label)
        for image in flipped_image(row.image, self._job.store.flip, name, row.name):
            assert not isinstance(image.pixels, BadImage)
            yield image.pixels

    def _is_chosen(self, image: StreamedImage) -> bool:
        if self._label_index is None:
            return True
        index = self._label_index.of(image.label, f"{self._stream.location}: {image.name}")
        return self._chosen is None or index in self._chosen

    def _class_name(self, label: str) -> str:
        if self._names is not None and self._label_index is not None:
            return self._names[self._label_index.of(label, self._stream.location)]
        return str(int(label)) if label.isdecimal() else label
