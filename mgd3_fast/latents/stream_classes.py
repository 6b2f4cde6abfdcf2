"""The parts of a stream, sorted into the files of its classes.

Shape letters: n rows of the stream, N classes, C channels, h w latent size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgd3_fast.datasets import BadImage, ImageClass, ImageStream
from mgd3_fast.datasets.class_names import LabelIndex, names_of_labels, plain_names
from mgd3_fast.datasets.file_list import FileList
from mgd3_fast.datasets.streams import StreamIndex, indexed_dataset
from mgd3_fast.errors import UserError
from mgd3_fast.latents.flipping import rows_per_image
from mgd3_fast.latents.job import EncodeJob
from mgd3_fast.latents.stream_parts import Part, StreamParts

# Latents of classes that are sorted at a time; every such group goes once through all parts.
_GROUP_BYTES = 512 * 2**20


def sort_into_classes(
    stream: ImageStream, parts: StreamParts, chosen: frozenset[int] | None, job: EncodeJob
) -> StreamIndex:
    """Write the latents files of the chosen classes, those that are not there.

    Args:
        stream: The stream, all of it in `parts`.
        parts: Latents in the order they were read.
        chosen: Labels of the classes that were encoded; None for all.
        job: Names the store.

    Returns:
        Where each image of the stream is.

    Raises:
        UserError: A label is out of range, or all images of a class are bad.
    """
    shards = range(len(stream.shards))
    names = stream.class_names
    if names is None:
        names = names_of_labels(name for part in _all(parts, shards) for name in part.label_names)
    rows = _Rows.of(parts, shards, LabelIndex(names, implied=stream.class_names is None), stream.location)
    index = rows.index(plain_names(names))
    dataset = indexed_dataset(stream, index, None, "train", allow_empty=True)
    wanted = [
        cls
        for cls in dataset.classes
        if len(cls) and (chosen is None or cls.label in chosen) and not job.store.has(cls)
    ]
    with job.progress.stage("sort", total=len(wanted), unit="class") as bar:
        for group in _groups(wanted, job):
            _write_classes(group, rows, parts, shards, job)
            bar.advance(len(group))
    return index


@dataclass(frozen=True)
class _Rows:
    """All rows of a stream.

    Args:
        classes: int64 [n], label of each.
        positions: int64 [n], place of each in its class.
        files: Names and sizes, class after class.
        shards: int64 [n], shard of each, class after class.
        rows: int64 [n], row in its shard, class after class.
        counts: int64 [N], rows of each class.
    """

    classes: NDArray[np.int64]
    positions: NDArray[np.int64]
    files: FileList
    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, parts: StreamParts, shards: Sequence[int], labels: LabelIndex, where: str) -> _Rows:
        """Gather rows of all parts, and order them by class."""
        columns: list[list[NDArray[np.int64]]] = [[] for _ in range(4)]
        blobs: list[bytes] = []
        for part in _all(parts, shards):
            table = np.array([labels.of(name, where) for name in part.label_names], dtype=np.int64)
            of_part = (
                table[part.labels],
                np.full(len(part), part.shard, dtype=np.int64),
                np.arange(len(part), dtype=np.int64) + part.first_row,
                part.sizes,
            )
            for column, values in zip(columns, of_part, strict=True):
                column.append(values)
            blob = part.names.tobytes()
            blobs += [blob[start:end] for start, end in pairwise([0, *part.ends.tolist()])]
        none = np.empty(0, dtype=np.int64)
        classes, of_shard, of_row, sizes = (np.concatenate([none, *column]) for column in columns)
        order = np.argsort(classes, kind="stable")
        counts = np.bincount(classes, minlength=labels.count).astype(np.int64)
        positions = np.empty_like(order)
        positions[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        ends = np.cumsum([len(blobs[row]) for row in order], dtype=np.int64)
        packed = np.frombuffer(b"".join(blobs[row] for row in order), dtype=np.uint8)
        files = FileList(packed, ends, sizes[order], np.zeros_like(order))
        return cls(classes, positions, files, of_shard[order], of_row[order], counts)

    def index(self, names: tuple[str, ...]) -> StreamIndex:
        """Where each image is."""
        return StreamIndex(names, self.counts, self.files, self.shards, self.rows)


def _write_classes(
    group: Sequence[ImageClass], rows: _Rows, parts: StreamParts, shards: Sequence[int], job: EncodeJob
) -> None:
    """Collect the latents of some classes from all parts, and store them."""
    shape, dtype = job.encoder.shape, job.store.storage_dtype
    per_image = rows_per_image(job.store.flip)
    latents = {cls.label: torch.empty(len(cls) * per_image, *shape, dtype=dtype) for cls in group}
    index: dict[int, list[Tensor]] = {cls.label: [] for cls in group}
    bad: dict[int, list[BadImage]] = {cls.label: [] for cls in group}
    names = {cls.label: cls.name for cls in group}
    filled = dict.fromkeys(latents, 0)
    start = 0
    for part in _all(parts, shards):
        # Latents and bad rows of this part, by their places among all rows.
        of_latents = part.rows - part.first_row + start
        labels = rows.classes[of_latents]
        for label in np.unique(labels):
            if int(label) in latents:
                chosen = np.flatnonzero(labels == label)
                end = filled[int(label)] + len(chosen)
                latents[int(label)][filled[int(label)] : end] = part.latents[torch.from_numpy(chosen)]
                index[int(label)].append(torch.from_numpy(rows.positions[of_latents[chosen]]))
                filled[int(label)] = end
        for one in part.bad:
            place = one.row - part.first_row + start
            label = int(rows.classes[place])
            if label in bad:
                bad[label].append(BadImage(names[label], int(rows.positions[place]), one.name, one.reason))
        start += len(part)
    for cls in group:
        if not filled[cls.label]:
            raise UserError(f"class {cls.name} must have at least one good image, all {len(cls)} are bad")
        stored = latents.pop(cls.label)[: filled[cls.label]]
        job.store.put(cls, stored, torch.cat(index[cls.label]), tuple(bad[cls.label]))


def _groups(classes: Sequence[ImageClass], job: EncodeJob) -> Iterator[list[ImageClass]]:
    """Classes whose latents fit in memory together."""
    per_latent = math.prod(job.encoder.shape) * job.store.storage_dtype.itemsize
    per_image = per_latent * rows_per_image(job.store.flip)
    group: list[ImageClass] = []
    for cls in classes:
        if group and (sum(map(len, group)) + len(cls)) * per_image > _GROUP_BYTES:
            yield group
            group = []
        group.append(cls)
    if group:
        yield group


def _all(parts: StreamParts, shards: Sequence[int]) -> Iterator[Part]:
    for shard in shards:
        yield from parts.of_shard(shard)
